//! `quorum-state`: who leads the metadata log, as this node last heard.
//!
//! One flat JSON object in a file beside the log. Version 0 belongs to a static quorum and
//! lists its voters, version 1 to a dynamic one. Written whole and durably before anything
//! of the epoch it names.

use klamm_protocol::ids::{DirectoryId, LeaderEpoch, NodeId, Uuid};

/// The file's name.
pub const QUORUM_STATE: &str = "quorum-state";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumState {
    /// Who leads; -1 is "nobody known".
    pub leader: NodeId,
    /// The latest epoch.
    pub epoch: LeaderEpoch,
    /// For whom this node voted in that epoch; -1 is "nobody".
    pub voted: NodeId,
    /// Which of the two forms.
    pub form: QuorumForm,
}

/// The form of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuorumForm {
    /// `data_version` 0.
    Static {
        /// The cluster's id, which Kafka leaves empty.
        cluster_id: String,
        /// An offset, which Kafka leaves 0.
        applied_offset: i64,
        /// The voters.
        voters: Vec<NodeId>,
    },
    /// `data_version` 1.
    Dynamic {
        /// The directory of the voter in `voted`.
        voted_directory: DirectoryId,
    },
}

/// Why the file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuorumStateError {
    /// It is not the flat object that Kafka writes.
    #[error("quorum-state is malformed at byte {at}")]
    Malformed {
        /// Where.
        at: usize,
    },
    /// A field is missing or of another type.
    #[error("quorum-state has no valid {0}")]
    Field(&'static str),
    /// Another version.
    #[error("quorum-state has data_version {0}, which this build does not know")]
    UnknownVersion(i64),
}

impl QuorumState {
    /// The file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let Self { leader, epoch, voted, .. } = self;
        match &self.form {
            QuorumForm::Static { cluster_id, applied_offset, voters } => {
                let voters: Vec<String> =
                    voters.iter().map(|voter| format!("{{\"voterId\":{voter}}}")).collect();
                let cluster_id = escape(cluster_id);
                format!(
                    "{{\"clusterId\":\"{cluster_id}\",\"leaderId\":{leader},\"leaderEpoch\":{epoch},\
                     \"votedId\":{voted},\"appliedOffset\":{applied_offset},\
                     \"currentVoters\":[{}],\"data_version\":0}}",
                    voters.join(",")
                )
            }
            QuorumForm::Dynamic { voted_directory } => format!(
                "{{\"leaderId\":{leader},\"leaderEpoch\":{epoch},\"votedId\":{voted},\
                 \"votedDirectoryId\":\"{voted_directory}\",\"data_version\":1}}"
            ),
        }
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// [`QuorumStateError`] if it is not what Kafka writes.
    pub fn parse(text: &str) -> Result<Self, QuorumStateError> {
        let fields = Parser { text: text.as_bytes(), at: 0 }.document()?;
        let number = |name: &'static str| match fields.iter().find(|(key, _)| key == name) {
            Some((_, Json::Number(number))) => Ok(*number),
            _ => Err(QuorumStateError::Field(name)),
        };
        let text = |name: &'static str| match fields.iter().find(|(key, _)| key == name) {
            Some((_, Json::Text(text))) => Ok(text.clone()),
            _ => Err(QuorumStateError::Field(name)),
        };
        let id = |name| i32::try_from(number(name)?).map_err(|_| QuorumStateError::Field(name));
        let form = match number("data_version")? {
            0 => QuorumForm::Static {
                cluster_id: text("clusterId").unwrap_or_default(),
                applied_offset: number("appliedOffset").unwrap_or_default(),
                voters: match fields.iter().find(|(key, _)| key == "currentVoters") {
                    Some((_, Json::Objects(voters))) => voters.iter().map(voter).collect::<Result<_, _>>()?,
                    _ => return Err(QuorumStateError::Field("currentVoters")),
                },
            },
            1 => QuorumForm::Dynamic {
                voted_directory: Uuid::parse(&text("votedDirectoryId")?)
                    .map(DirectoryId)
                    .map_err(|_| QuorumStateError::Field("votedDirectoryId"))?,
            },
            other => return Err(QuorumStateError::UnknownVersion(other)),
        };
        Ok(Self {
            leader: NodeId(id("leaderId")?),
            epoch: LeaderEpoch(id("leaderEpoch")?),
            voted: NodeId(id("votedId")?),
            form,
        })
    }
}

type Object = Vec<(String, Json)>;

/// As much of JSON as the file needs.
enum Json {
    Null,
    Number(i64),
    Text(String),
    Objects(Vec<Object>),
}

fn voter(fields: &Object) -> Result<NodeId, QuorumStateError> {
    match &fields[..] {
        [(key, Json::Number(id))] if key == "voterId" => {
            i32::try_from(*id).map(NodeId).map_err(|_| QuorumStateError::Field("currentVoters"))
        }
        _ => Err(QuorumStateError::Field("currentVoters")),
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn document(mut self) -> Result<Object, QuorumStateError> {
        let fields = self.object()?;
        self.skip_space();
        if self.at == self.text.len() { Ok(fields) } else { Err(self.malformed()) }
    }

    fn object(&mut self) -> Result<Object, QuorumStateError> {
        let mut fields = Vec::new();
        self.expect(b'{')?;
        if self.take(b'}') {
            return Ok(fields);
        }
        loop {
            self.skip_space();
            let key = self.string()?;
            self.expect(b':')?;
            let value = self.value()?;
            fields.push((key, value));
            if !self.take(b',') {
                self.expect(b'}')?;
                return Ok(fields);
            }
        }
    }

    fn value(&mut self) -> Result<Json, QuorumStateError> {
        self.skip_space();
        match self.text.get(self.at) {
            Some(b'"') => self.string().map(Json::Text),
            Some(b'[') => self.objects().map(Json::Objects),
            Some(b'n') if self.text[self.at..].starts_with(b"null") => {
                self.at += 4;
                Ok(Json::Null)
            }
            _ => self.number().map(Json::Number),
        }
    }

    /// An array of flat objects: the file nests no deeper, so neither does the parser.
    fn objects(&mut self) -> Result<Vec<Object>, QuorumStateError> {
        let mut objects = Vec::new();
        self.expect(b'[')?;
        if self.take(b']') {
            return Ok(objects);
        }
        loop {
            self.expect(b'{')?;
            self.skip_space();
            let key = self.string()?;
            self.expect(b':')?;
            self.skip_space();
            let number = self.number()?;
            self.expect(b'}')?;
            objects.push(vec![(key, Json::Number(number))]);
            if !self.take(b',') {
                self.expect(b']')?;
                return Ok(objects);
            }
        }
    }

    fn string(&mut self) -> Result<String, QuorumStateError> {
        if self.text.get(self.at) != Some(&b'"') {
            return Err(self.malformed());
        }
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            match self.text.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    match self.text.get(self.at + 1) {
                        Some(escaped @ (b'"' | b'\\' | b'/')) => bytes.push(*escaped),
                        _ => return Err(self.malformed()),
                    }
                    self.at += 2;
                }
                Some(byte) => {
                    bytes.push(*byte);
                    self.at += 1;
                }
                None => return Err(self.malformed()),
            }
        }
        self.at += 1;
        String::from_utf8(bytes).map_err(|_| self.malformed())
    }

    fn number(&mut self) -> Result<i64, QuorumStateError> {
        let digits = self.text[self.at..].iter().take_while(|b| b.is_ascii_digit() || **b == b'-').count();
        let number = std::str::from_utf8(&self.text[self.at..self.at + digits]).ok();
        let number = number.and_then(|number| number.parse().ok()).ok_or_else(|| self.malformed())?;
        self.at += digits;
        Ok(number)
    }

    fn skip_space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_there = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, byte: u8) -> Result<(), QuorumStateError> {
        if self.take(byte) { Ok(()) } else { Err(self.malformed()) }
    }

    fn malformed(&self) -> QuorumStateError {
        QuorumStateError::Malformed { at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As Kafka 4.3.1 wrote them.
    const STATIC: &str = r#"{"clusterId":"","leaderId":1,"leaderEpoch":1,"votedId":-1,"appliedOffset":0,"currentVoters":[{"voterId":1}],"data_version":0}"#;
    const DYNAMIC: &str = r#"{"leaderId":1,"leaderEpoch":3,"votedId":-1,"votedDirectoryId":"AAAAAAAAAAAAAAAAAAAAAA","data_version":1}"#;

    #[test]
    fn kafkas_files_are_read_and_written() {
        for text in [STATIC, DYNAMIC] {
            assert_eq!(QuorumState::parse(text).unwrap().encode(), text);
        }
        let state = QuorumState::parse(DYNAMIC).unwrap();
        assert_eq!((state.leader, state.epoch, state.voted), (NodeId(1), LeaderEpoch(3), NodeId(-1)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "{}", "[]", "{\"data_version\":2}", &DYNAMIC[..40], &format!("{DYNAMIC}x")] {
            assert!(QuorumState::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = QuorumState::parse(&text);
            let _ = QuorumState::parse(&format!("{{{text}"));
        }
    }
}
