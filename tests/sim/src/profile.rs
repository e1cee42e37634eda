//! What kind of place a run takes place in.
//!
//! In: a run. Out: how many clients and pods there are, how small the bounds are, who may do what. All bounds are small,
//! so that short runs meet every one of them.

use document::{Form, Mutation, Role, Settings};

use crate::{
    random::Random,
    schedule::{Fault, Schedule},
    store::Rules,
};

/// What does not change during a run.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) clients: Vec<Person>,
    pub(crate) pods: usize,
    pub(crate) settings: Settings,
    pub(crate) rules: Rules,
    /// What the document begins with.
    pub(crate) root: &'static str,
    /// Edits typed in all.
    pub(crate) edits_max: usize,
    /// Primaries are lost.
    pub(crate) fails_over: bool,
    /// A lost primary goes on for a while, for those who have not heard of the new one.
    pub(crate) lost_answers: bool,
    /// The last client comes under the name of the first, which is another user's.
    pub(crate) namesake: bool,
    /// Hours and days pass at once.
    pub(crate) ages: bool,
    /// Pods open the document call by call.
    pub(crate) opens_slowly: bool,
}

/// A client, and its user.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) role: Role,
    pub(crate) form: Form,
    /// It knows no numbers and no sessions.
    pub(crate) plain: bool,
}

impl Profile {
    pub(crate) fn of(schedule: &Schedule, mutation: Mutation) -> Self {
        let has = |fault| !schedule.without.has(fault);
        let mut random = Random::new(schedule.seed ^ 0x5EED);
        let hot = random.one_in(8);
        let clients = if hot { 8 } else { [4, 4, 4, 3, 2, 6][random.below(6)] };
        let pods = if hot { 4 } else { [3, 3, 2, 1, 4][random.below(5)] };
        let window = 3 + random.below(8);
        let small_window = random.one_in(3);
        let small_document = random.below(3) > 0;
        let room = random.below(150);
        // Drawn apart, so that seeds which failed once keep their meaning.
        let small_entries = Random::new(schedule.seed ^ 0x517E).one_in(4);
        let settings = Settings {
            max_document_bytes: if small_document && has(Fault::Small) { 150 + room } else { 1 << 20 },
            max_edit_bytes: if small_entries && has(Fault::Small) { 6 } else { 1 << 20 },
            window_entries: window,
            window_bytes: if small_window { 500 + random.below(600) } else { 1 << 20 },
            snapshot_tail_entries: if has(Fault::Trim) { 3 + random.below(8) } else { 100_000 },
            join_entries: [1_000, 1_000, 4][random.below(3)],
            batch_entries: 1 + random.below(8),
            held_edits: 3 + random.below(4),
            behind_entries: 10 + random.below(10) as u64,
            early_edits: 4 + random.below(8),
            mutation,
            ..Settings::default()
        };
        let settings = Settings { durable_acks: schedule.replicated, ..settings };
        let rules = Rules {
            window_entries: window as u64,
            tail_entries: 2 + random.below(6),
            keep_ms: if has(Fault::Trim) { [0, 0, 3_000, 40_000][random.below(4)] } else { u64::MAX },
            ..Rules::default()
        };
        let mut people = vec![Person { role: Role::Write, form: Form::Delta, plain: false }; clients];
        let last = clients - 1;
        if random.one_in(2) && has(Fault::Quill) {
            people[0].form = Form::Quill;
        }
        let restricted = [Role::Write, Role::Write, Role::Read, Role::Comment][random.below(4)];
        if has(Fault::Roles) {
            people[last].role = restricted;
        }
        people[last / 2].plain = random.one_in(4) && has(Fault::Plain);
        people.truncate(schedule.clients.max(1));
        let mut profile = Self {
            clients: people,
            pods: pods.min(schedule.pods).max(1),
            settings,
            rules,
            root: ["abc", "abc", ""][random.below(3)],
            edits_max: if hot { 120 } else { 60 },
            fails_over: random.one_in(4),
            lost_answers: false,
            namesake: false,
            ages: false,
            opens_slowly: has(Fault::Opening) && schedule.random_of(Fault::Opening, u32::MAX).one_in(3),
        };
        if schedule.replicated {
            profile.fails_over |= random.below(4) > 0;
            profile.settings.durable_waiting = 2 + random.below(20);
        }
        profile.lost_answers = random.one_in(2) && has(Fault::OldPrimary);
        profile.namesake = random.one_in(6) && has(Fault::Namesake);
        if has(Fault::Rows) {
            profile.draw_rows(schedule.random_of(Fault::Rows, u32::MAX));
        }
        if has(Fault::Bytes) {
            profile.draw_bytes(schedule.random_of(Fault::Bytes, u32::MAX));
        }
        profile
    }

    /// Bounds in bytes, each in some runs. An entry is some 200 bytes in the log, some 130 in a window, and 30 without its
    /// names.
    fn draw_bytes(&mut self, mut random: Random) {
        let mut draw = |bound: &mut usize, least: usize, more: usize| {
            let bytes = least + random.below(more);
            if random.one_in(3) {
                *bound = bytes;
            }
        };
        draw(&mut self.rules.window_bytes, 200, 2_500);
        draw(&mut self.rules.tail_bytes, 1, 1_000);
        draw(&mut self.settings.batch_bytes, 1, 1_000);
        draw(&mut self.settings.held_bytes, 1, 150);
        draw(&mut self.settings.join_bytes, 1, 1_000);
    }

    /// How many rows the store keeps, and whether they get old.
    fn draw_rows(&mut self, mut random: Random) {
        self.ages = random.one_in(4);
        if random.one_in(3) {
            self.rules.clients = 2 + random.below(self.clients.len() + 4);
            self.rules.numbered = 1 + random.below(4);
        }
    }
}
