//! What is known of the servers at one time: who takes writes, and which history that is.
//!
//! In: what each server said of itself ([`Report`]). Out: a [`View`], by rules without I/O: of several servers that call
//! themselves primary the one with the highest epoch that is not fenced off, never one below an epoch that was seen.

use std::{collections::HashMap, sync::Arc};

use super::{StoreError, slots::SLOTS};

/// Which history a server tells: a restart, a promotion and a full copy from another server each change it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// Of the server's process. Empty where the server does not tell.
    pub(crate) run_id: String,
    /// Of the replicated history.
    pub(crate) replication_id: String,
    /// Of the promotion, 0 where nobody counts them.
    pub(crate) epoch: u64,
}

/// What a server said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Report {
    pub(crate) identity: Identity,
    /// `None` where the server does not tell.
    pub(crate) is_primary: Option<bool>,
    pub(crate) is_loading: bool,
    /// Its fence has run out: it may have been replaced.
    pub(crate) is_fenced: bool,
    pub(crate) is_cluster: bool,
    /// By this policy it throws keys away when its memory is full, instead of refusing changes.
    pub(crate) evicts_by: Option<String>,
    /// It keeps an append-only log on its disk; `None` where the server does not tell.
    pub(crate) keeps_log: Option<bool>,
    /// It can wait until that log is on disks; `None` where it does not tell or was not asked.
    pub(crate) waits_for_disks: Option<bool>,
}

impl Report {
    /// Reads `INFO`, the fields `epoch` and `until` of the fence, and the server's time in Unix ms.
    pub(crate) fn read(info: &str, fence: &[Option<String>], now_ms: Option<u64>) -> Self {
        let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let text = |name: &str| fields.get(name).copied().unwrap_or_default().to_owned();
        let number = |at: usize| fence.get(at).and_then(Option::as_deref).and_then(|text| text.parse::<f64>().ok());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "epochs are small whole numbers")]
        let epoch = number(0).unwrap_or(0.0) as u64;
        #[expect(clippy::cast_precision_loss, reason = "milliseconds fit until the year 287396")]
        let is_fenced = match (number(1), now_ms) {
            (Some(until), Some(now)) => until < now as f64,
            _ => false,
        };
        let may_evict = !matches!(fields.get("maxmemory").copied(), None | Some("0"));
        let policy = text("maxmemory_policy");
        Self {
            evicts_by: (may_evict && !policy.is_empty() && policy != "noeviction").then_some(policy),
            identity: Identity { run_id: text("run_id"), replication_id: text("master_replid"), epoch },
            is_primary: fields.get("role").map(|role| *role == "master"),
            is_loading: fields.get("loading").is_some_and(|loading| *loading != "0"),
            is_fenced,
            is_cluster: fields.get("cluster_enabled").is_some_and(|enabled| *enabled == "1"),
            keeps_log: fields.get("aof_enabled").map(|enabled| *enabled != "0"),
            waits_for_disks: None,
        }
    }

    /// What it lacks to keep the promise of `--durability synced`, and what to do.
    pub(crate) fn lacks_for_synced(&self) -> Option<&'static str> {
        if self.waits_for_disks == Some(false) {
            return Some("has no WAITAOF: use Redis 7.2 or later, or Valkey");
        }
        (self.keeps_log == Some(false)).then_some("has appendonly no: set it to yes")
    }
}

/// Which node, by its place in the list, has each slot; `None`: nobody.
pub(crate) type SlotMap = Box<[Option<u16>]>;
/// First slot, last slot, host, port.
pub(crate) type SlotRange = (u16, u16, String, u16);

/// A server that takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) address: Arc<str>,
    pub(crate) identity: Identity,
}

/// The servers that take writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Differs between views that differ.
    pub(crate) number: u64,
    pub(crate) nodes: Vec<Node>,
    /// In Cluster mode the index of the node of each slot.
    pub(crate) slots: Option<SlotMap>,
}

impl View {
    pub(crate) fn is_cluster(&self) -> bool {
        self.slots.is_some()
    }

    /// The server of a slot and its index; outside Cluster mode there is one for all.
    pub(crate) fn node(&self, slot: u16) -> Option<(u16, &Node)> {
        let index = match &self.slots {
            None => 0,
            Some(slots) => (*slots.get(usize::from(slot))?)?,
        };
        Some((index, self.nodes.get(usize::from(index))?))
    }

    pub(crate) fn by_index(&self, index: u16) -> Option<&Node> {
        self.nodes.get(usize::from(index))
    }

    /// The same but for its number.
    pub(crate) fn is_like(&self, other: &View) -> bool {
        self.nodes == other.nodes && self.slots == other.slots
    }
}

/// Whether a server may be written to, given the highest epoch that anybody has told.
///
/// # Errors
/// With the reason, which is shown to operators.
pub(crate) fn judge(address: &str, report: &Report, highest_epoch: u64, is_alone: bool) -> Result<(), StoreError> {
    let no = |why: String| Err(StoreError::Unavailable(format!("{address} {why}")));
    if report.is_loading {
        return no("is still loading its data".into());
    }
    if report.is_primary == Some(false) {
        return no("is a follower, not the primary".into());
    }
    // With one server there is no choice: its scripts refuse changes while it is fenced off, and reading goes on.
    if is_alone {
        return Ok(());
    }
    if report.identity.epoch < highest_epoch {
        return no(format!("is a former primary of epoch {}; epoch {highest_epoch} exists", report.identity.epoch));
    }
    if report.is_fenced {
        return Err(StoreError::Fenced);
    }
    Ok(())
}

/// The nodes and slots of `CLUSTER SLOTS`: `(first, last, host, port)` for each range; an empty host is the one asked.
pub(crate) fn cluster(ranges: &[SlotRange], asked: &str) -> (Vec<Arc<str>>, SlotMap) {
    let asked_host = asked.rsplit_once(':').map_or(asked, |(host, _)| host);
    let mut addresses: Vec<Arc<str>> = Vec::new();
    let mut slots = vec![None; usize::from(SLOTS)].into_boxed_slice();
    for (first, last, host, port) in ranges {
        let host = if host.is_empty() || host == "?" { asked_host } else { host };
        let address: Arc<str> = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}").into()
        } else {
            format!("{host}:{port}").into()
        };
        let index = addresses.iter().position(|known| *known == address).unwrap_or_else(|| {
            addresses.push(address);
            addresses.len() - 1
        });
        let index = u16::try_from(index).ok();
        if let Some(range) = slots.get_mut(usize::from(*first)..=usize::from(*last).min(usize::from(SLOTS) - 1)) {
            range.fill(index);
        }
    }
    (addresses, slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(role: &str, epoch: &str, until: &str) -> Report {
        let info = format!("# Server\r\nrun_id:abc\r\nrole:{role}\r\nmaster_replid:def\r\nloading:0\r\n");
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Report::read(&info, &[text(epoch), text(until)], Some(1_000))
    }

    #[test]
    fn a_former_primary_and_a_fenced_one_are_refused() {
        let ok = |report: &Report, highest| judge("a:1", report, highest, false).is_ok();
        assert!(ok(&report("master", "", ""), 0));
        assert!(ok(&report("master", "4", "1000"), 4));
        assert!(!ok(&report("master", "4", "999"), 4), "fenced");
        assert!(!ok(&report("master", "3", "2000"), 4), "a higher epoch exists");
        assert!(!ok(&report("slave", "4", "2000"), 4));
        assert!(judge("a:1", &report("master", "4", "999"), 4, true).is_ok(), "alone there is no choice");
        assert!(judge("a:1", &report("slave", "", ""), 0, true).is_err());
    }

    #[test]
    fn a_server_that_tells_nothing_of_itself_is_used() {
        let report = Report::read("", &[], None);
        assert!(judge("a:1", &report, 0, true).is_ok());
        assert_eq!(report.identity, Identity::default());
    }

    #[test]
    fn ranges_of_slots_name_their_server() {
        let ranges =
            [(0, 99, "10.0.0.1".to_owned(), 1), (100, 16383, String::new(), 2), (50, 50, "fd00::1".to_owned(), 3)];
        let (addresses, slots) = cluster(&ranges, "asked:7000");
        assert_eq!(addresses, ["10.0.0.1:1", "asked:2", "[fd00::1]:3"].map(Arc::from));
        assert_eq!([slots[0], slots[50], slots[100], slots[16383]], [Some(0), Some(2), Some(1), Some(1)]);
    }
}
