//! The tree of names twice: as everybody sees it, and as the device has it.
//!
//! A change of a name is durable once a directory that it touches was synced. Those that wait
//! reach the device in order within a directory, as file systems with a journal (ext4, XFS)
//! have it, each directory for itself; a rename is kept whole. Directories and files live
//! apart from their names, so that what was written below a lost name is lost with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex};

use super::content::Content;
use super::draw::Draw;

pub(super) type File = Arc<Mutex<Content>>;
type DirId = u64;
/// A name in a directory.
type Place = (DirId, String);

const ROOT: DirId = 0;

#[derive(Clone)]
pub(super) enum Node {
    File(File),
    Dir(DirId),
}

type Tree = BTreeMap<DirId, BTreeMap<String, Node>>;

#[derive(Default)]
pub(super) struct Names {
    live: Tree,
    durable: Tree,
    pending: Vec<NameChange>,
    dirs_made: DirId,
}

#[derive(Clone)]
struct NameChange {
    from: Option<Place>,
    to: Option<(Place, Node)>,
}

impl NameChange {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.from.iter().chain(self.to.iter().map(|(place, _)| place))
    }

    fn apply(&self, tree: &mut Tree) {
        if let Some((dir, name)) = &self.from
            && let Some(entries) = tree.get_mut(dir)
        {
            entries.remove(name);
        }
        if let Some(((dir, name), node)) = &self.to {
            tree.entry(*dir).or_default().insert(name.clone(), node.clone());
        }
    }
}

impl Names {
    pub(super) fn find(&self, path: &Path) -> Option<Node> {
        let mut found = Node::Dir(ROOT);
        for part in parts(path) {
            let Node::Dir(dir) = found else { return None };
            found = self.live.get(&dir)?.get(part)?.clone();
        }
        Some(found)
    }

    pub(super) fn file(&self, path: &Path) -> Option<File> {
        match self.find(path)? {
            Node::File(file) => Some(file),
            Node::Dir(_) => None,
        }
    }

    /// The names in a directory, sorted, and what they are.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(String, Node)>> {
        let dir = self.dir(path)?;
        let entries = self.live.get(&dir).into_iter().flatten();
        Ok(entries.map(|(name, node)| (name.clone(), node.clone())).collect())
    }

    pub(super) fn create_file(&mut self, path: &Path, content: Content) -> io::Result<File> {
        let place = self.place(path)?;
        let file = Arc::new(Mutex::new(content));
        self.change(None, Some((place, Node::File(Arc::clone(&file)))));
        Ok(file)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        self.dirs_made += 1;
        let id = self.dirs_made;
        self.live.entry(id).or_default();
        self.change(None, Some((place, Node::Dir(id))));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from).ok_or(io::ErrorKind::NotFound)?;
        let (from, target) = (self.place(from)?, self.place(to)?);
        match (&node, self.find(to)) {
            (Node::Dir(_), Some(_)) | (Node::File(_), Some(Node::Dir(_))) => {
                Err(io::ErrorKind::AlreadyExists.into())
            }
            _ => {
                self.change(Some(from), Some((target, node)));
                Ok(())
            }
        }
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path).ok_or(io::ErrorKind::NotFound)?;
        let place = self.place(path)?;
        self.change(Some(place), None);
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        for (name, node) in self.list(path)? {
            let below = path.join(name);
            match node {
                Node::File(_) => self.remove_file(&below)?,
                Node::Dir(_) => self.remove_dir_all(&below)?,
            }
        }
        let place = self.place(path)?;
        self.change(Some(place), None);
        Ok(())
    }

    /// Makes the changes of a directory's names durable, with the earlier ones they build on.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.dir(path)?;
        for change in self.take_touching(dir) {
            change.apply(&mut self.durable);
        }
        Ok(())
    }

    /// A sync that failed: the device never has these changes.
    pub(super) fn fail_sync(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.dir(path)?;
        drop(self.take_touching(dir));
        Ok(())
    }

    /// Makes every name and every byte durable.
    pub(super) fn sync_all(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
        self.each_named_file(Content::sync);
    }

    /// A sync of everything that failed: the device never has what waits.
    pub(super) fn fail_sync_all(&mut self) {
        self.pending.clear();
        self.each_named_file(Content::fail_sync);
    }

    fn each_named_file(&self, mut act: impl FnMut(&mut Content)) {
        for tree in [&self.live, &self.durable] {
            each_file(tree, ROOT, &mut |file| act(&mut file.lock().expect("no holder panics")));
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let mut bytes = 0;
        each_file(&self.live, ROOT, &mut |file| bytes += len_of(file));
        bytes
    }

    /// The same names over copies of the files, durable as far as these are.
    pub(super) fn fork(&self) -> Self {
        let mut copies = Copies::new(|content: &Content| content.clone());
        Self {
            live: copies.tree(&self.live),
            durable: copies.tree(&self.durable),
            pending: self.pending.iter().map(|change| copies.change(change)).collect(),
            dirs_made: self.dirs_made,
        }
    }

    /// What a start finds after the power went.
    pub(super) fn after_power_cut(&self, draw: &mut Draw) -> Self {
        let mut tree = self.durable.clone();
        let mut dirs: BTreeMap<DirId, usize> = BTreeMap::new();
        for (dir, _) in self.pending.iter().flat_map(NameChange::places) {
            *dirs.entry(*dir).or_default() += 1;
        }
        // How many more of its changes a directory keeps; all or none often.
        for waiting in dirs.values_mut() {
            *waiting = match draw.below(4) {
                0 => 0,
                1 => *waiting,
                _ => draw.below(*waiting as u64 + 1) as usize,
            };
        }
        for change in &self.pending {
            let touched: BTreeSet<DirId> = change.places().map(|(dir, _)| *dir).collect();
            if touched.iter().all(|dir| dirs[dir] > 0) {
                change.apply(&mut tree);
                for (dir, _) in change.places() {
                    let left = dirs.get_mut(dir).expect("every place was counted");
                    *left = left.saturating_sub(1);
                }
            } else {
                for dir in touched {
                    dirs.insert(dir, 0);
                }
            }
        }
        let mut copies = Copies::new(|content: &Content| Content::durable(content.after_power_cut(draw)));
        let live = copies.tree(&reachable(&tree));
        Self { durable: live.clone(), live, pending: Vec::new(), dirs_made: self.dirs_made }
    }

    fn change(&mut self, from: Option<Place>, to: Option<(Place, Node)>) {
        let change = NameChange { from, to };
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    fn take_touching(&mut self, dir: DirId) -> Vec<NameChange> {
        let mut needed: BTreeSet<Place> = BTreeSet::new();
        let mut is_taken = vec![false; self.pending.len()];
        for (index, change) in self.pending.iter().enumerate().rev() {
            if change.places().any(|place| place.0 == dir || needed.contains(place)) {
                is_taken[index] = true;
                needed.extend(change.places().cloned());
            }
        }
        let all = std::mem::take(&mut self.pending);
        let (taken, kept): (Vec<_>, Vec<_>) = all.into_iter().zip(is_taken).partition(|(_, taken)| *taken);
        self.pending = kept.into_iter().map(|(change, _)| change).collect();
        taken.into_iter().map(|(change, _)| change).collect()
    }

    fn dir(&self, path: &Path) -> io::Result<DirId> {
        match self.find(path) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let name = parts(path).last().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name.to_owned()))
    }
}

/// Copies each file once, under however many names it is known.
struct Copies<F> {
    copy: F,
    made: BTreeMap<usize, File>,
}

impl<F: FnMut(&Content) -> Content> Copies<F> {
    fn new(copy: F) -> Self {
        Self { copy, made: BTreeMap::new() }
    }

    fn node(&mut self, node: &Node) -> Node {
        let Node::File(file) = node else { return node.clone() };
        if let Some(made) = self.made.get(&Arc::as_ptr(file).addr()) {
            return Node::File(Arc::clone(made));
        }
        let copied = (self.copy)(&file.lock().expect("no holder panics"));
        let copied = Arc::new(Mutex::new(copied));
        self.made.insert(Arc::as_ptr(file).addr(), Arc::clone(&copied));
        Node::File(copied)
    }

    fn change(&mut self, change: &NameChange) -> NameChange {
        let to = change.to.as_ref().map(|(place, node)| (place.clone(), self.node(node)));
        NameChange { from: change.from.clone(), to }
    }

    fn tree(&mut self, tree: &Tree) -> Tree {
        let mut copied = Tree::new();
        for (dir, entries) in tree {
            let entries = entries.iter().map(|(name, node)| (name.clone(), self.node(node))).collect();
            copied.insert(*dir, entries);
        }
        copied
    }
}

fn reachable(tree: &Tree) -> Tree {
    let mut found = Tree::new();
    let mut waiting = vec![ROOT];
    while let Some(dir) = waiting.pop() {
        let entries = tree.get(&dir).cloned().unwrap_or_default();
        waiting.extend(entries.values().filter_map(|node| match node {
            Node::Dir(dir) => Some(*dir),
            Node::File(_) => None,
        }));
        found.insert(dir, entries);
    }
    found
}

fn each_file(tree: &Tree, dir: DirId, visit: &mut impl FnMut(&File)) {
    for node in tree.get(&dir).into_iter().flat_map(|entries| entries.values()) {
        match node {
            Node::File(file) => visit(file),
            Node::Dir(dir) => each_file(tree, *dir, visit),
        }
    }
}

pub(super) fn len_of(file: &File) -> u64 {
    file.lock().expect("no holder panics").bytes().len() as u64
}

fn parts(path: &Path) -> impl Iterator<Item = &str> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(names: &mut Names, path: &str, byte: u8) {
        let file = names.create_file(Path::new(path), Content::default()).unwrap();
        let mut content = file.lock().unwrap();
        content.write(0, vec![byte]);
        content.sync();
    }

    fn after_cuts(names: &Names) -> BTreeSet<Vec<String>> {
        let listed = |names: &Names| {
            let mut found = Vec::new();
            let mut visit = vec!["/".to_owned()];
            while let Some(path) = visit.pop() {
                for (name, node) in names.list(Path::new(&path)).unwrap() {
                    let below = format!("{path}{name}");
                    match node {
                        Node::Dir(_) => visit.push(format!("{below}/")),
                        Node::File(_) => found.push(below),
                    }
                }
            }
            found.sort();
            found
        };
        (0..200).map(|seed| listed(&names.after_power_cut(&mut Draw::new(seed)))).collect()
    }

    fn list(names: &[&[&str]]) -> BTreeSet<Vec<String>> {
        names.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
    }

    #[test]
    fn a_name_is_certain_only_after_its_directory_was_synced() {
        let mut names = Names::default();
        names.create_dir(Path::new("/d")).unwrap();
        written(&mut names, "/d/a", 1);
        names.sync(Path::new("/d")).unwrap();
        assert_eq!(after_cuts(&names), list(&[&[], &["/d/a"]]), "the directory's own name waits");
        names.sync(Path::new("/")).unwrap();
        assert_eq!(after_cuts(&names), list(&[&["/d/a"]]));
        names.remove_file(Path::new("/d/a")).unwrap();
        written(&mut names, "/d/b", 1);
        assert_eq!(after_cuts(&names), list(&[&[], &["/d/a"], &["/d/b"]]));
    }

    #[test]
    fn a_rename_is_kept_whole_and_takes_what_is_below_along() {
        let mut names = Names::default();
        names.create_dir(Path::new("/d")).unwrap();
        names.sync(Path::new("/")).unwrap();
        written(&mut names, "/d/a", 1);
        names.sync(Path::new("/d")).unwrap();
        names.rename(Path::new("/d"), Path::new("/e")).unwrap();
        written(&mut names, "/e/b", 1);
        let expected: &[&[&str]] = &[&["/d/a"], &["/d/a", "/d/b"], &["/e/a"], &["/e/a", "/e/b"]];
        assert_eq!(after_cuts(&names), list(expected));
        names.sync(Path::new("/e")).unwrap();
        names.sync(Path::new("/")).unwrap();
        assert_eq!(after_cuts(&names), list(&[&["/e/a", "/e/b"]]));
    }

    #[test]
    fn a_sync_of_everything_leaves_nothing_to_lose() {
        let mut names = Names::default();
        names.create_dir(Path::new("/d")).unwrap();
        let file = names.create_file(Path::new("/d/a"), Content::default()).unwrap();
        file.lock().unwrap().write(0, vec![7]);
        names.sync_all();
        assert_eq!(after_cuts(&names), list(&[&["/d/a"]]));
        assert_eq!(file.lock().unwrap().after_power_cut(&mut Draw::new(1)), [7]);
    }

    #[test]
    fn a_failed_sync_forgets_the_names() {
        let mut names = Names::default();
        written(&mut names, "/a", 1);
        names.fail_sync(Path::new("/")).unwrap();
        names.sync(Path::new("/")).unwrap();
        assert!(names.file(Path::new("/a")).is_some());
        assert_eq!(after_cuts(&names), list(&[&[]]));
    }
}
