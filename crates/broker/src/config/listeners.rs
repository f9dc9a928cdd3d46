//! `listeners`, `advertised.listeners` and the protocol behind each name.
//!
//! Resolves nothing and opens nothing. Only plaintext is served today: a listener that asks for TLS or SASL is an
//! error here, because serving it in the clear would be worse than not starting.

use std::{collections::BTreeMap, fmt, net::IpAddr};

/// A listener that the broker opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The name, in upper case.
    pub name: String,
    /// Where to listen; an empty host is every interface, port 0 any free port.
    pub bind: HostPort,
    /// What clients are told, with port 0 for the port that was bound; `None`: they are told nothing of it.
    pub advertised: Option<HostPort>,
}

/// A host and a port; an IPv6 address carries no brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address; empty: every interface.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Parses `host:port`, `[address]:port` or `:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']')?;
                // A scope (`%eth0`) is no part of the address proper.
                let plain = address.split('%').next().unwrap_or(address);
                plain.parse::<std::net::Ipv6Addr>().ok()?;
                address
            }
            None => host,
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
        if !host.chars().all(is_host) || port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }

    /// Whether this means every interface.
    pub fn is_wildcard(&self) -> bool {
        self.host.is_empty() || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What is wrong with the keys of this module; `key` is the one to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerProblem {
    /// The key.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

/// The texts of the keys that together make listeners.
#[derive(Clone, Debug, Default)]
pub struct ListenerKeys<'a> {
    /// `listeners`.
    pub listeners: Vec<String>,
    /// `advertised.listeners`, if given.
    pub advertised: Option<Vec<String>>,
    /// `listener.security.protocol.map`, given or default.
    pub protocols: &'a str,
    /// Whether the map was given.
    pub protocols_given: bool,
    /// `controller.listener.names`.
    pub controller_names: Vec<String>,
    /// The machine's name, advertised for a listener on every interface.
    pub host_name: Option<&'a str>,
}

/// The listeners to open, and those of the controller, which are not.
pub fn resolve_listeners(keys: &ListenerKeys<'_>) -> Result<(Vec<Listener>, Vec<Listener>), ListenerProblem> {
    let bound = parse_endpoints("listeners", &keys.listeners)?;
    check_ports(&bound)?;
    check_protocols(keys, &bound)?;
    let controller_names: Vec<String> =
        keys.controller_names.iter().map(|name| name.to_uppercase()).collect();
    if let Some(unknown) = controller_names.iter().find(|name| !bound.iter().any(|(bound, _)| bound == *name))
    {
        let problem = format!("{unknown} is not among the listeners; name one of them");
        return Err(ListenerProblem { key: "controller.listener.names", problem });
    }
    let advertised = match &keys.advertised {
        Some(texts) => parse_endpoints("advertised.listeners", texts)?,
        None => Vec::new(),
    };
    for (name, address) in &advertised {
        let key = "advertised.listeners";
        if !bound.iter().any(|(bound, _)| bound == name) {
            let problem = format!("{name} is not among the listeners; add it there or remove it here");
            return Err(ListenerProblem { key, problem });
        }
        if address.is_wildcard() && !controller_names.contains(name) {
            let problem =
                format!("{name}: clients cannot connect to every interface; give a host name or address");
            return Err(ListenerProblem { key, problem });
        }
    }
    let mut opened = Vec::new();
    let mut of_controller = Vec::new();
    for (name, bind) in bound {
        let is_controller = controller_names.contains(&name);
        let told = advertised.iter().find(|(advertised, _)| *advertised == name);
        let told = match (is_controller, told, &keys.advertised) {
            (true, _, _) => None,
            (false, Some((_, address)), _) => Some(address.clone()),
            (false, None, Some(_)) => None,
            (false, None, None) => Some(advertise(&name, &bind, keys.host_name)?),
        };
        let listener = Listener { name, bind, advertised: told };
        if is_controller { of_controller.push(listener) } else { opened.push(listener) }
    }
    if opened.is_empty() {
        let problem = "every listener is named in controller.listener.names; add one for clients".to_owned();
        return Err(ListenerProblem { key: "listeners", problem });
    }
    if opened.iter().all(|listener| listener.advertised.is_none()) {
        let problem = "names none of the listeners for clients; add one".to_owned();
        return Err(ListenerProblem { key: "advertised.listeners", problem });
    }
    Ok((opened, of_controller))
}

/// What clients are told about a listener that advertised.listeners does not name.
fn advertise(name: &str, bind: &HostPort, host_name: Option<&str>) -> Result<HostPort, ListenerProblem> {
    if !bind.is_wildcard() {
        return Ok(bind.clone());
    }
    match host_name {
        Some(host) if bind.host.is_empty() => Ok(HostPort { host: host.to_owned(), port: bind.port }),
        _ => Err(ListenerProblem {
            key: "advertised.listeners",
            problem: format!(
                "{name} listens on every interface, which clients cannot connect to; set advertised.listeners, for \
                 example {name}://localhost:{}",
                bind.port
            ),
        }),
    }
}

fn parse_endpoints(key: &'static str, texts: &[String]) -> Result<Vec<(String, HostPort)>, ListenerProblem> {
    let mut endpoints: Vec<(String, HostPort)> = Vec::new();
    for text in texts {
        let parsed =
            text.split_once("://").and_then(|(name, address)| Some((name, HostPort::parse(address)?)));
        let Some((name, address)) = parsed.filter(|(name, _)| !name.is_empty()) else {
            let problem = format!("cannot read {text:?}; write NAME://host:port, with a port of 0 to 65535");
            return Err(ListenerProblem { key, problem });
        };
        let name = name.to_uppercase();
        if endpoints.iter().any(|(known, _)| *known == name) {
            let problem = format!("{name} is given twice; every listener needs a name of its own");
            return Err(ListenerProblem { key, problem });
        }
        endpoints.push((name, address));
    }
    if endpoints.is_empty() {
        return Err(ListenerProblem { key, problem: "names no listener; write NAME://host:port".to_owned() });
    }
    Ok(endpoints)
}

/// Two listeners share a port only where one is IPv4 and the other IPv6.
fn check_ports(endpoints: &[(String, HostPort)]) -> Result<(), ListenerProblem> {
    for (at, (name, address)) in endpoints.iter().enumerate() {
        for (other_name, other) in &endpoints[..at] {
            let families = (address.host.parse::<IpAddr>(), other.host.parse::<IpAddr>());
            let differ = matches!(families, (Ok(one), Ok(two)) if one.is_ipv4() != two.is_ipv4());
            if address.port != 0 && address.port == other.port && !differ {
                let problem =
                    format!("{other_name} and {name} share port {}; each needs its own", address.port);
                return Err(ListenerProblem { key: "listeners", problem });
            }
        }
    }
    Ok(())
}

fn check_protocols(keys: &ListenerKeys<'_>, bound: &[(String, HostPort)]) -> Result<(), ListenerProblem> {
    let key = "listener.security.protocol.map";
    let mut protocols = BTreeMap::new();
    for entry in keys.protocols.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let Some((name, protocol)) = entry.rsplit_once(':') else {
            return Err(ListenerProblem {
                key,
                problem: format!("cannot read {entry:?}; write NAME:PROTOCOL"),
            });
        };
        let protocol = protocol.trim().to_uppercase();
        if !["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"].contains(&protocol.as_str()) {
            let problem =
                format!("{protocol} is no protocol; allowed: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL");
            return Err(ListenerProblem { key, problem });
        }
        if protocols.insert(name.trim().to_uppercase(), protocol).is_some() {
            return Err(ListenerProblem { key, problem: format!("{name} is mapped twice") });
        }
    }
    for (name, _) in bound {
        let is_controller = keys.controller_names.iter().any(|known| known.to_uppercase() == *name);
        match protocols.get(name).map(String::as_str) {
            Some("PLAINTEXT") => {}
            Some(protocol) => {
                let problem = format!(
                    "{name} asks for {protocol}, which Klamm does not serve yet, and serving it in plaintext would \
                     expose it; use a PLAINTEXT listener on a trusted network"
                );
                return Err(ListenerProblem { key: "listeners", problem });
            }
            // Kafka's rule: without a map of one's own, controller listeners are plaintext.
            None if is_controller && !keys.protocols_given => {}
            None => {
                let problem = format!("has no protocol for the listener {name}; add {name}:PLAINTEXT");
                return Err(ListenerProblem { key, problem });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT";

    fn list(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    fn resolve(
        listeners: &str,
        advertised: Option<&str>,
        map: Option<&str>,
        controllers: &[&str],
    ) -> Result<(Vec<Listener>, Vec<Listener>), ListenerProblem> {
        resolve_listeners(&ListenerKeys {
            listeners: list(listeners),
            advertised: advertised.map(list),
            protocols: map.unwrap_or(MAP),
            protocols_given: map.is_some(),
            controller_names: controllers.iter().map(|name| (*name).to_owned()).collect(),
            host_name: Some("machine"),
        })
    }

    fn refusal(listeners: &str, advertised: Option<&str>, map: Option<&str>, controllers: &[&str]) -> String {
        let refused = resolve(listeners, advertised, map, controllers).expect_err("refused");
        format!("{}: {}", refused.key, refused.problem)
    }

    fn shown(listeners: &[Listener]) -> Vec<String> {
        let told = |of: &Listener| of.advertised.as_ref().map_or("-".to_owned(), HostPort::to_string);
        listeners.iter().map(|of| format!("{}://{} as {}", of.name, of.bind, told(of))).collect()
    }

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("127.0.0.1:9092", "127.0.0.1", 9092),
            (":0", "", 0),
            ("[::1]:1", "::1", 1),
            ("[fe80::1%eth0]:2", "fe80::1%eth0", 2),
            ("a-b.c_d:65535", "a-b.c_d", 65535),
        ] {
            assert_eq!(HostPort::parse(text), Some(HostPort { host: host.to_owned(), port }), "{text}");
        }
        for text in ["", "a", "a:", "a:65536", "a:-1", "a:+1", "[::1:1", "[x]:1", "a b:1", "a/b:1"] {
            assert_eq!(HostPort::parse(text), None, "{text}");
        }
        assert!(HostPort::parse("[::]:1").is_some_and(|address| address.is_wildcard()));
        assert_eq!(HostPort::parse("[::1]:1").map(|address| address.to_string()).as_deref(), Some("[::1]:1"));
    }

    #[test]
    fn the_shipped_files_listeners() {
        let map = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL";
        let (opened, of_controller) = resolve(
            "PLAINTEXT://:9092,CONTROLLER://:9093",
            Some("PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093"),
            Some(map),
            &["CONTROLLER"],
        )
        .expect("resolves");
        assert_eq!(shown(&opened), ["PLAINTEXT://:9092 as localhost:9092"]);
        assert_eq!(shown(&of_controller), ["CONTROLLER://:9093 as -"]);
    }

    #[test]
    fn every_interface_is_advertised_by_the_machines_name() {
        let (opened, _) = resolve("plaintext://:9092", None, None, &[]).expect("resolves");
        assert_eq!(shown(&opened), ["PLAINTEXT://:9092 as machine:9092"]);
        assert_eq!(
            refusal("PLAINTEXT://0.0.0.0:9092", None, None, &[]),
            "advertised.listeners: PLAINTEXT listens on every interface, which clients cannot connect to; set \
             advertised.listeners, for example PLAINTEXT://localhost:9092"
        );
        assert!(
            refusal("PLAINTEXT://:1", Some("PLAINTEXT://0.0.0.0:1"), None, &[]).contains("every interface")
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(
            refusal("PLAINTEXT://a", None, None, &[]).starts_with("listeners: cannot read \"PLAINTEXT://a\"")
        );
        assert!(refusal("A://a:1,A://b:2", None, None, &[]).contains("A is given twice"));
        assert!(
            refusal("A://a:1,B://b:1", None, Some("A:PLAINTEXT,B:PLAINTEXT"), &[]).contains("share port 1")
        );
        assert!(refusal("A://a:1", None, None, &[]).contains("add A:PLAINTEXT"));
        assert!(refusal("A://a:1", None, Some("A:TLS"), &[]).contains("TLS is no protocol"));
        assert!(refusal("A://a:1", None, Some("A:SSL"), &[]).contains("A asks for SSL"));
        assert!(refusal("SASL_SSL://a:1", None, None, &[]).contains("asks for SASL_SSL"));
        assert!(
            refusal("PLAINTEXT://a:1", Some("B://a:1"), None, &[]).contains("B is not among the listeners")
        );
        assert!(refusal("C://a:1", None, None, &["C"]).contains("every listener is named"));
        assert!(refusal("PLAINTEXT://a:1", None, None, &["C"]).contains("C is not among the listeners"));
        let (opened, _) = resolve(
            "PLAINTEXT://a:1,B://b:2",
            Some("PLAINTEXT://x:9"),
            Some("PLAINTEXT:PLAINTEXT,B:PLAINTEXT"),
            &[],
        )
        .expect("resolves");
        assert_eq!(shown(&opened), ["PLAINTEXT://a:1 as x:9", "B://b:2 as -"]);
        // One port, two families.
        let both = "PLAINTEXT://127.0.0.1:1,B://[::1]:1";
        assert!(resolve(both, None, Some("PLAINTEXT:PLAINTEXT,B:PLAINTEXT"), &[]).is_ok());
        assert!(
            refusal("A://a:1,C://b:2", None, Some("A:PLAINTEXT,C:SASL_SSL"), &["C"])
                .contains("asks for SASL_SSL")
        );
    }
}
