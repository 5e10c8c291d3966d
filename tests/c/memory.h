/* What calls.c checks of memory: events, a budget that is too small, pins. Uses its runtime, store and segment. */

/* What pressure() did is told, in order and without gaps. */
static void memory_events(void)
{
    atom_memory_events *events = NULL;
    atom_memory_event event = {.struct_size = sizeof event};
    unsigned released = 0;
    uint64_t last = 0, returned = 0;
    EXPECT(ATOM_STATUS_OK, atom_runtime_memory_events(runtime, 0, &events));
    for (size_t i = 0; i < atom_memory_events_count(events); i++) {
        EXPECT(ATOM_STATUS_OK, atom_memory_events_get(events, i, &event));
        CHECK(last == 0 || event.number == last + 1);
        CHECK(event.text[0] != '\0');
        last = event.number;
        released += event.kind == ATOM_MEMORY_EVENT_KIND_RELEASED && event.subject[0] != '\0';
        returned += event.anon_bytes;
    }
    CHECK(last > 0 && released >= 3 && returned > 0);
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_memory_events_get(events, atom_memory_events_count(events), &event));
    EXPECT(ATOM_STATUS_OK, atom_memory_events_close(events));
    EXPECT(ATOM_STATUS_OK, atom_runtime_memory_events(runtime, last, &events));
    CHECK(atom_memory_events_count(events) <= 2);
    EXPECT(ATOM_STATUS_OK, atom_memory_events_close(events));
    EXPECT(ATOM_STATUS_OK, atom_memory_events_close(NULL));
}

/* The id of the pack's language decoder. */
static void find_decoder(char *id, size_t size)
{
    atom_modules *modules = NULL;
    atom_module module = {.struct_size = sizeof module};
    EXPECT(ATOM_STATUS_OK, atom_runtime_modules(runtime, &modules));
    for (size_t i = 0; i < atom_modules_count(modules); i++) {
        EXPECT(ATOM_STATUS_OK, atom_modules_get(modules, i, &module));
        if (strcmp(module.kind, "language-decoder") == 0)
            snprintf(id, size, "%s", module.id);
    }
    EXPECT(ATOM_STATUS_OK, atom_modules_close(modules));
}

/* What its slot is doing. */
static const char *state_of(const char *id)
{
    static char state[32];
    atom_modules *modules = NULL;
    atom_module module = {.struct_size = sizeof module};
    EXPECT(ATOM_STATUS_OK, atom_runtime_modules(runtime, &modules));
    for (size_t i = 0; i < atom_modules_count(modules); i++) {
        EXPECT(ATOM_STATUS_OK, atom_modules_get(modules, i, &module));
        if (strcmp(module.id, id) == 0)
            snprintf(state, sizeof state, "%s", module.state);
    }
    EXPECT(ATOM_STATUS_OK, atom_modules_close(modules));
    return state;
}

/* A budget that cannot hold the decoder is told as such, and undone. */
static void budget(void)
{
    atom_generate_options fresh = {.struct_size = sizeof fresh, .fresh = 1};
    atom_generated *caption = NULL;
    uint64_t returned = 0;
    char decoder[256] = "";
    find_decoder(decoder, sizeof decoder);
    EXPECT(ATOM_STATUS_OK, atom_runtime_trim(runtime, ATOM_PRESSURE_CRITICAL, &returned));
    CHECK(returned > 0);
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_budget(runtime, 1000));
    EXPECT_TOLD(ATOM_STATUS_OUT_OF_BUDGET, "budget", atom_caption(runtime, store, segment, &fresh, &caption));
    CHECK(caption == NULL);
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_budget(runtime, 0));
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_keep(runtime, decoder, ATOM_KEEP_PINNED));
    EXPECT(ATOM_STATUS_INVALID_ARGUMENT, atom_runtime_set_keep(runtime, decoder, 4));
    EXPECT(ATOM_STATUS_OK, atom_runtime_prefetch(runtime, decoder));
    EXPECT(ATOM_STATUS_OK, atom_caption(runtime, store, segment, &fresh, &caption));
    EXPECT(ATOM_STATUS_OK, atom_generated_close(caption));
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_pressure(runtime, ATOM_PRESSURE_CRITICAL));
    EXPECT(ATOM_STATUS_OK, atom_runtime_set_pressure(runtime, ATOM_PRESSURE_NONE));
    CHECK(strcmp(state_of(decoder), "cold") != 0);
}
