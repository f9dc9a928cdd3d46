//! The tests' driver itself: what a transcript shows of a conversation.

mod world;

use klamm_coordinator::group::GroupCommand;
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::wire::WireStr;
use world::World;

#[test]
fn a_transcript_shows_what_differs_from_a_default() {
    let mut world = World::new();
    world.create_topic("t", 1);
    let partition = OffsetCommitRequestPartition { committed_offset: 7, ..Default::default() };
    let name = WireStr::from_static("t");
    let topic = OffsetCommitRequestTopic { name, partitions: vec![partition], ..Default::default() };
    let group_id = WireStr::from_static("g");
    let request = OffsetCommitRequest { group_id, topics: vec![topic], ..Default::default() };
    world.call(GroupCommand::OffsetCommit { request, version: 9 });
    world.crash();
    insta::assert_snapshot!(world.take_transcript());
}
