//! What `klamm serve` says once it serves: where everything is, and what to type next.

use std::fmt::Write as _;
use std::net::SocketAddr;

use klamm_broker::config::Durability;

/// The facts of the banner.
pub struct Banner<'a> {
    pub cluster_id: &'a str,
    pub node_id: i32,
    /// Name of the listener and the address that it is bound to.
    pub listeners: &'a [(String, SocketAddr)],
    pub http: Option<SocketAddr>,
    pub log_dirs: &'a [String],
    pub durability: Durability,
    pub start_ms: u128,
}

impl Banner<'_> {
    /// The text, with a line break at its end.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, what: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<11}{what}");
        };
        for (name, address) in self.listeners {
            line("kafka", &format!("{name}://{address}"));
        }
        match self.http {
            Some(address) => line("http", &format!("http://{address}/metrics, /livez, /readyz")),
            None => line("http", "off"),
        }
        line("data", &self.log_dirs.join(", "));
        line(
            "durability",
            match self.durability {
                Durability::Flushed => "flushed: what acks=all acknowledged survives a power cut",
                Durability::PageCache => {
                    "page_cache: acks=all survives a killed process, not a power cut; metadata is flushed"
                }
            },
        );
        if let Some((_, address)) = self.listeners.first() {
            line("try", &format!("echo hello | kcat -b {address} -t greetings -P"));
            line("", &format!("kcat -b {address} -t greetings -C -e"));
        }
        format!(
            "klamm {} serves cluster {} as node {}, after {} ms\n{text}",
            env!("CARGO_PKG_VERSION"),
            self.cluster_id,
            self.node_id,
            self.start_ms,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_names_every_address() {
        let listeners = [("PLAINTEXT".to_owned(), "127.0.0.1:9092".parse().unwrap())];
        let banner = Banner {
            cluster_id: "kLaMmPeErKaFkA0000000A",
            node_id: 1,
            listeners: &listeners,
            http: Some("127.0.0.1:8080".parse().unwrap()),
            log_dirs: &["/data".to_owned()],
            durability: Durability::Flushed,
            start_ms: 12,
        };
        let text = banner.render();
        for part in [
            "kLaMmPeErKaFkA0000000A",
            "PLAINTEXT://127.0.0.1:9092",
            "http://127.0.0.1:8080",
            "/data",
            "flushed: ",
        ] {
            assert!(text.contains(part), "{part} is missing from {text}");
        }
    }
}
