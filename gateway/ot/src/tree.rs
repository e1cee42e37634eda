//! The leaves of a document, under branches that count them.
//!
//! In: changes of a range. Out: the leaves that share in it, first to last. All leaves are equally deep, a branch has at
//! most [`CHILDREN`] children, and no two neighbours below one branch are both small; so the way to a place gets longer
//! with the logarithm of the number of leaves only.

use crate::leaf::{Leaf, Piece};

/// A branch with more children than this is cut.
const CHILDREN: usize = 32;
/// New branches leave room for typing.
const NEW_CHILDREN: usize = 24;
/// Two neighbouring branches of at most this many children become one.
const SMALL_CHILDREN: usize = 8;

/// A leaf, or a branch of nodes that are equally deep.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Leaf(Leaf),
    Branch(Box<Branch>),
}

#[derive(Debug, Clone)]
pub(crate) struct Branch {
    /// None of them empty.
    children: Vec<Node>,
    /// Where each of them ends, in a list of its own: looking for a place reads nothing else.
    ends: Vec<usize>,
    /// The child that was changed last: the next edit is often there.
    finger: usize,
}

impl Default for Node {
    fn default() -> Self {
        Node::Leaf(Leaf::new(Vec::new()))
    }
}

impl Node {
    /// A tree of these pieces.
    pub(crate) fn of(pieces: impl Iterator<Item = Piece>) -> Self {
        let mut leaves: Vec<Leaf> = Vec::new();
        for piece in pieces {
            match leaves.last_mut() {
                Some(leaf) if leaf.has_room() => leaf.push(piece),
                _ => leaves.push(Leaf::new(vec![piece])),
            }
        }
        Self::over(leaves.into_iter().map(Node::Leaf).collect())
    }

    pub(crate) fn units(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.units(),
            Node::Branch(branch) => branch.units(),
        }
    }

    /// About how many bytes it takes in memory; it looks at every piece.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.memory_bytes(),
            Node::Branch(branch) => {
                let ends = branch.ends.capacity() * size_of::<usize>();
                let room = (branch.children.capacity() - branch.children.len()) * size_of::<Node>();
                size_of::<Branch>() + ends + room + branch.children.iter().map(Node::memory_bytes).sum::<usize>()
            }
        }
    }

    /// The first leaf that ends at or behind a position, and where it begins.
    pub(crate) fn leaf_at(&self, at: usize) -> Option<(&Leaf, usize)> {
        match self {
            Node::Leaf(leaf) => Some((leaf, 0)),
            Node::Branch(branch) => {
                let (index, start) = branch.find(at);
                let (leaf, inside) = branch.children.get(index)?.leaf_at(at - start)?;
                Some((leaf, start + inside))
            }
        }
    }

    /// The leaf at the end.
    pub(crate) fn last_leaf(&self) -> Option<&Leaf> {
        match self {
            Node::Leaf(leaf) => Some(leaf),
            Node::Branch(branch) => branch.children.last().and_then(Node::last_leaf),
        }
    }

    pub(crate) fn each_piece(&self, each: &mut impl FnMut(&Piece)) {
        match self {
            Node::Leaf(leaf) => leaf.pieces().for_each(each),
            Node::Branch(branch) => branch.children.iter().for_each(|child| child.each_piece(each)),
        }
    }

    /// Changes the whole tree's leaves between two positions; `each` takes a leaf and where in it to begin and to end.
    /// Where nothing lies between them, it takes the first leaf that ends at or behind them.
    pub(crate) fn change(&mut self, from: usize, to: usize, each: &mut impl FnMut(&mut Leaf, usize, usize)) {
        self.change_below(from, to, each);
        if let Some(more) = self.split() {
            let mut level = vec![std::mem::take(self)];
            level.extend(more);
            *self = Self::over(level);
        }
        while let Node::Branch(branch) = self
            && branch.children.len() < 2
        {
            *self = branch.children.pop().unwrap_or_default();
        }
    }

    fn change_below(&mut self, from: usize, to: usize, each: &mut impl FnMut(&mut Leaf, usize, usize)) {
        match self {
            Node::Leaf(leaf) => each(leaf, from, to),
            Node::Branch(branch) => branch.change(from, to, each),
        }
    }

    /// A tree over nodes that are equally deep.
    fn over(mut level: Vec<Node>) -> Self {
        while level.len() > 1 {
            let mut rest = level.into_iter().peekable();
            level = Vec::new();
            while rest.peek().is_some() {
                level.push(Branch::new(rest.by_ref().take(NEW_CHILDREN).collect()).into());
            }
        }
        level.pop().unwrap_or_default()
    }

    fn is_small(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.is_small(),
            Node::Branch(branch) => branch.children.len() <= SMALL_CHILDREN,
        }
    }

    /// How many pieces or children it has.
    fn width(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.width(),
            Node::Branch(branch) => branch.children.len(),
        }
    }

    /// Whether it needs neither splitting nor joining nor removing.
    fn is_sound(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.is_sound(),
            Node::Branch(branch) => (SMALL_CHILDREN + 1..=CHILDREN).contains(&branch.children.len()),
        }
    }

    /// What does not fit any more, as nodes behind this one.
    fn split(&mut self) -> Option<Vec<Node>> {
        match self {
            Node::Leaf(leaf) => Some(leaf.split()?.into_iter().map(Node::Leaf).collect()),
            Node::Branch(branch) => Some(branch.split()?.into_iter().map(Node::from).collect()),
        }
    }

    fn append(&mut self, other: Node) {
        match (self, other) {
            (Node::Leaf(leaf), Node::Leaf(other)) => leaf.append(other),
            (Node::Branch(branch), Node::Branch(other)) => branch.append(*other),
            (Node::Leaf(_), Node::Branch(_)) | (Node::Branch(_), Node::Leaf(_)) => {
                debug_assert!(false, "neighbours are equally deep");
            }
        }
    }
}

impl From<Branch> for Node {
    fn from(branch: Branch) -> Self {
        Node::Branch(Box::new(branch))
    }
}

impl Branch {
    fn new(children: Vec<Node>) -> Self {
        let mut branch = Self { children, ends: Vec::new(), finger: 0 };
        branch.count_ends();
        branch
    }

    fn units(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn count_ends(&mut self) {
        self.ends.clear();
        self.ends.extend(self.children.iter().scan(0, |end, child| {
            *end += child.units();
            Some(*end)
        }));
    }

    /// Where a child begins: where the one before it ends.
    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0)
    }

    /// The first child that ends at or behind a position, and where it begins.
    fn find(&self, at: usize) -> (usize, usize) {
        let start = self.start(self.finger);
        if start < at && self.ends.get(self.finger).is_some_and(|end| at <= *end) {
            return (self.finger, start);
        }
        let index = self.ends.partition_point(|end| *end < at);
        (index, self.start(index))
    }

    fn change(&mut self, from: usize, to: usize, each: &mut impl FnMut(&mut Leaf, usize, usize)) {
        // A child that ends where a range begins has no part in it.
        let (first, mut start) = self.find(to.min(from + 1));
        self.finger = first;
        let mut next = first;
        let mut is_sound = true;
        while let (Some(child), Some(end)) = (self.children.get_mut(next), self.ends.get(next))
            && (start < to || next == first)
        {
            let width = child.width();
            child.change_below(from.saturating_sub(start), to.min(*end) - start, each);
            is_sound &= child.width() == width || child.is_sound();
            start = *end;
            next += 1;
        }
        if is_sound && next == first + 1 {
            self.move_ends(first);
        } else {
            self.repair(first, next);
        }
    }

    /// Moves the ends from this child on by what it has grown.
    fn move_ends(&mut self, index: usize) {
        let (Some(child), Some(end)) = (self.children.get(index), self.ends.get(index)) else { return };
        let (old_end, new_end) = (*end, self.start(index) + child.units());
        for end in self.ends.iter_mut().skip(index) {
            *end = *end + new_end - old_end;
        }
    }

    /// Makes the children from `first` up to `end`, which have been changed, what children should be.
    fn repair(&mut self, first: usize, end: usize) {
        let children = self.children.len();
        for index in (first..end).rev() {
            let Some(child) = self.children.get_mut(index) else { continue };
            if child.units() == 0 {
                self.children.remove(index);
            } else if let Some(more) = child.split() {
                self.children.splice(index + 1..index + 1, more);
            }
        }
        let end = end + self.children.len() - children;
        for seam in (first..=end).rev() {
            self.join(seam);
        }
        self.count_ends();
    }

    /// Makes one of the children on both sides of a seam if both have become small, so that deletions leave no dust.
    fn join(&mut self, seam: usize) {
        let small = |child: Option<&Node>| child.is_some_and(Node::is_small);
        let Some(before) = seam.checked_sub(1) else { return };
        if small(self.children.get(before)) && small(self.children.get(seam)) {
            let next = self.children.remove(seam);
            if let Some(child) = self.children.get_mut(before) {
                child.append(next);
            }
        }
    }

    fn split(&mut self) -> Option<Vec<Branch>> {
        if self.children.len() <= CHILDREN {
            return None;
        }
        let mut more = Vec::new();
        while self.children.len() > CHILDREN {
            let keep = self.children.len() - CHILDREN / 2;
            more.push(Branch::new(self.children.split_off(keep)));
        }
        more.reverse();
        self.children.shrink_to(CHILDREN);
        *self = Branch::new(std::mem::take(&mut self.children));
        Some(more)
    }

    fn append(&mut self, other: Branch) {
        let seam = self.children.len();
        self.children.extend(other.children);
        self.join(seam);
        self.count_ends();
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::{CHILDREN, Node};
    use crate::{Op, leaf::Piece};

    /// Counts again what a tree says of itself; gives its height.
    fn height(node: &Node) -> usize {
        let branch = match node {
            Node::Leaf(leaf) => {
                assert_eq!(leaf.units(), leaf.pieces().map(Piece::units).sum::<usize>());
                return 0;
            }
            Node::Branch(branch) => branch,
        };
        let children = &branch.children;
        assert!((1..=CHILDREN).contains(&children.len()));
        assert!(children.iter().all(|child| child.units() > 0), "none is empty");
        assert!(!children.windows(2).any(|pair| pair.iter().all(Node::is_small)), "no two neighbours are small");
        let heights: Vec<usize> = children.iter().map(height).collect();
        assert!(heights.windows(2).all(|pair| pair[0] == pair[1]), "all leaves are equally deep");
        let ends: Vec<usize> = (1..=children.len()).map(|end| children[..end].iter().map(Node::units).sum()).collect();
        assert_eq!(branch.ends, ends);
        heights[0] + 1
    }

    fn word(random: &mut StdRng) -> Op {
        let color = [("color".to_owned(), random.random_range(0..1 << 20).into())];
        Op::Insert { text: "word".to_owned(), attributes: Some(color.into_iter().collect()) }
    }

    #[test]
    fn a_tree_keeps_its_form_while_it_grows_and_shrinks() {
        let mut random = StdRng::seed_from_u64(20_260_901);
        let mut tree = Node::of((0..40_000).flat_map(|_| Piece::of(&word(&mut random))));
        assert_eq!(height(&tree), 3);
        for step in 0..3_000 {
            let is_growing = random.random_bool(if step < 1_000 { 0.9 } else { 0.3 });
            let from = random.random_range(0..=tree.units());
            if is_growing {
                let op = word(&mut random);
                tree.change(from, from, &mut |leaf, at, _| leaf.insert(at, &op));
            } else {
                let most = 1 << random.random_range(0..10);
                let to = (from + random.random_range(1..=most)).min(tree.units());
                tree.change(from, to, &mut |leaf, from, to| leaf.delete(from, to - from));
            }
            if step % 100 == 0 {
                height(&tree);
            }
        }
        let end = tree.units();
        tree.change(1, end, &mut |leaf, from, to| leaf.delete(from, to - from));
        assert_eq!((tree.units(), height(&tree)), (1, 0));
    }
}
