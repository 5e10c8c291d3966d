//! Nothing allocates on the capture thread. In a binary of its own: the allocator counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use atom_core::flow::ring::ring;
use atom_core::frame::{Frame, FrameFormat, PixelFormat, Plane};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system allocator; counting touches a constant-initialised thread-local only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn pushing_never_allocates_full_or_not() {
    const SIZE: (u32, u32) = (641, 361);
    let largest = FrameFormat::new(PixelFormat::Rgb8, SIZE.0, SIZE.1);
    let data = vec![1; 700 * 361 * 3];
    let (producer, consumer) = ring(largest.packed_bytes()).unwrap();
    // The first frames of each format, into slots never used before, strides padded.
    let mut consumer = Some(consumer);
    for round in 0..4 {
        for pixels in [
            PixelFormat::Nv12,
            PixelFormat::I420,
            PixelFormat::Gray8,
            PixelFormat::Rgb8,
        ] {
            let format = FrameFormat::new(pixels, SIZE.0, SIZE.1);
            let planes: Vec<_> = (0..pixels.planes())
                .map(|plane| Plane {
                    data: &data,
                    stride: pixels.plane_size(plane, SIZE.0, SIZE.1).0 + 13,
                })
                .collect();
            let mut taken = 0;
            let counted = allocations(|| {
                for time in 0..12 {
                    let frame = Frame::new(format, &planes, time).unwrap();
                    taken += usize::from(producer.push(&frame).unwrap());
                }
            });
            assert_eq!(counted, 0, "{pixels:?}, round {round}");
            assert_eq!(taken, 8, "the ring was filled and overflowed");
            // Emptied on another thread, as in life.
            let mut back = consumer.take().unwrap();
            consumer = std::thread::spawn(move || {
                (0..8).for_each(|_| drop(back.next().unwrap()));
                Some(back)
            })
            .join()
            .unwrap();
        }
    }
    assert!(
        allocations(|| drop(vec![1u8; 100])) > 0,
        "the counter counts"
    );
}
