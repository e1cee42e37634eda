//! Operations a second of the OT core, on real traces: applying a whole session to the rope, and transforming
//! neighbouring edits against each other.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ot::{Delta, Rope, Side};

fn benches(criterion: &mut Criterion) {
    for name in ["sveltecomponent", "rustcode"] {
        let Some(trace) = traces::read(name).expect("the trace reads") else { continue };
        let edits: Vec<Delta> = trace.edits.into_iter().map(|typed| typed.change).collect();
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        group.throughput(Throughput::Elements(edits.len() as u64));
        group.bench_function("apply", |bencher| {
            bencher.iter_batched(empty, |rope| replay(rope, &edits), BatchSize::LargeInput);
        });
        assert_eq!(replay(empty(), &edits).text(), trace.end, "the benchmark must do the work");
        group.bench_function("transform", |bencher| {
            let pairs: Vec<_> = edits.windows(2).collect();
            bencher
                .iter(|| pairs.iter().map(|pair| pair[0].transform(&pair[1], Side::Other).ops().len()).sum::<usize>());
        });
        group.finish();
    }
}

fn empty() -> Rope {
    Rope::from_delta(&Delta::new()).expect("the empty document")
}

fn replay(mut rope: Rope, edits: &[Delta]) -> Rope {
    for edit in edits {
        rope.apply(edit).expect("the trace applies");
    }
    rope
}

criterion_group!(all, benches);
criterion_main!(all);
