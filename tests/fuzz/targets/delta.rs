//! Deltas from strangers. In: bytes; up to three lines of JSON: a document and two changes. Whatever is accepted must
//! keep the laws, and nothing may panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ot::{Bias, Delta, Rope, Side, cross};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let deltas: Vec<Delta> = text.lines().take(3).filter_map(|line| protocol::parse_delta(line).ok()).collect();
    for delta in &deltas {
        let again = protocol::decode_delta(&serde_json::to_string(&protocol::DeltaJson(delta)).unwrap());
        assert_eq!(again.as_ref(), Ok(delta), "what is written is read");
        let _ = delta.transform_position(1, Bias::After);
    }
    let [base, a, b] = deltas.as_slice() else { return };
    // Lengths that no document has are still changes: they must not overflow.
    let _ = (a.transform(b, Side::This), b.transform(a, Side::Other), a.compose(b), a.invert(base));
    let Ok(mut rope) = Rope::from_delta(base) else { return };
    if rope.growth(a).is_err() || rope.growth(b).is_err() {
        return;
    }
    let (pending, committed) = cross(a, b);
    let (Ok(after_a), Ok(after_b)) = (base.compose(a), base.compose(b)) else { panic!("both fit") };
    rope.apply(a).unwrap();
    assert_eq!(rope.to_delta(), after_a);
    assert_eq!(rope.length_utf16(), after_a.length());
    assert_eq!(after_a.compose(&committed).unwrap(), after_b.compose(&pending).unwrap());
    assert_eq!(base.compose(&base.diff(&after_a).unwrap()).unwrap(), after_a);
    for delta in [&pending, &committed, &after_a] {
        assert_eq!(Delta::from_stored(delta.ops().to_vec()).as_ref(), Ok(delta), "normal form");
    }
    // A `null` on an insert means nothing and cannot be brought back.
    if !text.contains("null") {
        assert_eq!(after_a.compose(&a.invert(base).unwrap()).unwrap(), *base);
    }
});
