use atom_core::ort::*;
#[test]
fn t() {
    let env = Environment::open(&EnvironmentOptions::default()).unwrap();
    println!("{} {:?}", env.version(), env.library());
    let pack = std::sync::Arc::new(atom_core::pack::Pack::open(&atom_tests::pack()).unwrap());
    let folder = atom_tests::temporary();
    let registry = atom_core::module::Registry::new(pack.clone(), env, atom_core::budget::Ledger::default(), atom_core::pack::ArtifactCache::new(folder.path().to_owned()));
    for m in pack.manifest().modules.iter() {
        let lease = registry.lease(&m.id).unwrap();
        println!("{:?}", lease.spec().id);
    }
    for s in registry.status() { println!("{s:?}"); }
}
