//! In which directory a partition lies.

use std::sync::atomic::Ordering;

use klamm_protocol::ids::TopicId;

use super::{LogDirs, Wanted};

/// Where a partition lies, and whose it is; `None` while nobody has asked for it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) dir: usize,
    pub(super) topic_id: Option<TopicId>,
}

impl LogDirs {
    /// Where a partition lies, or shall lie: as on disk, as the metadata says, or where there is least.
    pub(super) fn place(&self, wanted: &Wanted) -> usize {
        let mut places = self.places.lock().expect("nothing panics in here");
        let key = (wanted.topic.clone(), wanted.index);
        let known = places.get(&key).map(|place| place.dir);
        let place = known.or_else(|| self.dirs.iter().position(|dir| dir.state.id == wanted.directory));
        let place = place.unwrap_or_else(|| {
            let loads = self.dirs.iter().map(|dir| dir.partition_count.load(Ordering::Relaxed));
            loads.enumerate().min_by_key(|(_, count)| *count).map_or(0, |(place, _)| place)
        });
        places.insert(key, Place { dir: place, topic_id: Some(wanted.topic_id) });
        self.dirs[place].partition_count.fetch_add(1, Ordering::Relaxed);
        place
    }
}
