//! Operations a second of the OT core on real traces, beside npm quill-delta: applying a whole session to the rope, and
//! transforming neighbouring edits against each other; and what an edit costs in documents of any size.
//!
//! In: `COLLAB_BENCH_PEERS`, the folder of the peers. Out: criterion's figures of wall-clock time; rows of the table, in
//! CPU time, which other processes disturb less.
#![allow(missing_docs, reason = "criterion's macros make public items")]

mod sizes;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use load::{
    cpu,
    figures::{Row, write},
};
use ot::{Delta, Rope, Side};

const TRACES: [&str; 2] = ["sveltecomponent", "rustcode"];
/// Of one core; DESIGN section 11.
const APPLIED_MIN: f64 = 5e6;
const TRANSFORMED_MIN: f64 = 10e6;

criterion_group!(all, benches);

fn main() -> Result<()> {
    all();
    Criterion::default().configure_from_args().final_summary();
    rows()
}

fn benches(criterion: &mut Criterion) {
    for name in TRACES {
        let Some((edits, end)) = session(name).expect("the trace reads") else { continue };
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        group.throughput(Throughput::Elements(edits.len() as u64));
        group.bench_function("apply", |bencher| {
            bencher.iter_batched(empty, |rope| replay(rope, &edits), BatchSize::LargeInput);
        });
        assert_eq!(replay(empty(), &edits).text(), end, "the benchmark must do the work");
        group.bench_function("transform", |bencher| bencher.iter(|| transform_neighbours(&edits)));
        group.finish();
    }
}

fn rows() -> Result<()> {
    let mut rows = Vec::new();
    for name in TRACES {
        let Some((edits, _)) = session(name)? else { continue };
        let applied = per_second(edits.len(), || replay(empty(), &edits).length_utf16())?;
        let transformed = per_second(edits.len() - 1, || transform_neighbours(&edits))?;
        let peer = peer(name)?;
        let row = |what: &str, figure: f64, target: f64, peer: Option<f64>| Row {
            what: format!("OT {what} a second and core, {name}"),
            figure: millions(figure),
            target: format!("≥ {}", millions(target)),
            peers: peer.map(|peer| format!("quill-delta {}", millions(peer))).unwrap_or_default(),
            is_met: Some(figure >= target),
        };
        rows.push(row("apply", applied, APPLIED_MIN, peer.map(|(apply, _)| apply)));
        rows.push(row("transform", transformed, TRANSFORMED_MIN, peer.map(|(_, transform)| transform)));
    }
    rows.extend(sizes::rows()?);
    write(&rows)
}

/// Edits one at a time, and the text they end in.
fn session(name: &str) -> Result<Option<(Vec<Delta>, String)>> {
    let trace = traces::read(name)?;
    Ok(trace.map(|trace| (trace.edits.into_iter().map(|typed| typed.change).collect(), trace.end)))
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

fn transform_neighbours(edits: &[Delta]) -> usize {
    edits.windows(2).map(|pair| pair[0].transform(&pair[1], Side::Other).ops().len()).sum()
}

fn per_second(operations: usize, work: impl Fn() -> usize) -> Result<f64> {
    Ok(operations as f64 / cpu::ns(work)? * 1e9)
}

/// Applied and transformed a second by npm quill-delta.
fn peer(name: &str) -> Result<Option<(f64, f64)>> {
    let Some(folder) = std::env::var_os("COLLAB_BENCH_PEERS") else {
        println!("SKIPPED quill-delta: COLLAB_BENCH_PEERS names no folder");
        return Ok(None);
    };
    let output = Command::new("node").arg("ot.js").arg(traces::path(name)).current_dir(folder).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let figure = |of: &str| told[of].as_f64().with_context(|| format!("{told} has no {of}"));
    Ok(Some((figure("apply")?, figure("transform")?)))
}

fn millions(operations: f64) -> String {
    if operations >= 1e5 { format!("{:.1} M", operations / 1e6) } else { format!("{:.1} k", operations / 1e3) }
}
