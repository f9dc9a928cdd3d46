//! How many connections there may be: in all and from one address (`max.connections`,
//! `max.connections.per.ip`).
//!
//! **Invariant:** a [`ConnectionPermit`] counts until it is dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// The counts; shared by every listener.
#[derive(Debug, Default)]
pub(crate) struct ConnectionLimits {
    counts: Mutex<Counts>,
}

/// What is allowed now; both limits can change while the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Connections in all.
    pub(crate) count_max: usize,
    /// Connections from the address in question.
    pub(crate) per_ip_max: usize,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_ip: BTreeMap<IpAddr, usize>,
}

/// The right to be connected.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    ip: IpAddr,
}

impl ConnectionLimits {
    /// Connections now open.
    pub(crate) fn count(&self) -> usize {
        self.counts.lock().expect("nothing panics in here").all
    }

    /// A permit for a connection from `ip`, or the limit it would exceed.
    pub(crate) fn admit(
        self: &Arc<Self>,
        ip: IpAddr,
        allowed: Allowed,
    ) -> Result<ConnectionPermit, &'static str> {
        let mut counts = self.counts.lock().expect("nothing panics in here");
        if counts.all >= allowed.count_max {
            return Err("max.connections");
        }
        let of_ip = counts.by_ip.get(&ip).copied().unwrap_or(0);
        if of_ip >= allowed.per_ip_max {
            return Err("max.connections.per.ip");
        }
        counts.all += 1;
        counts.by_ip.insert(ip, of_ip + 1);
        Ok(ConnectionPermit { limits: self.clone(), ip })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut counts = self.limits.counts.lock().expect("nothing panics in here");
        counts.all -= 1;
        if let Some(of_ip) = counts.by_ip.get_mut(&self.ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                counts.by_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_are_given_back() {
        let here: IpAddr = [127, 0, 0, 1].into();
        let there: IpAddr = [127, 0, 0, 2].into();
        let limits = Arc::new(ConnectionLimits::default());
        let of_here = Allowed { count_max: 3, per_ip_max: 5 };
        let of_there = Allowed { count_max: 3, per_ip_max: 1 };
        let first = limits.admit(there, of_there).unwrap();
        assert_eq!(limits.admit(there, of_there).unwrap_err(), "max.connections.per.ip");
        let _second = limits.admit(here, of_here).unwrap();
        let _third = limits.admit(here, of_here).unwrap();
        assert_eq!(limits.admit(here, of_here).unwrap_err(), "max.connections");
        drop(first);
        assert!(limits.admit(there, of_there).is_ok());
        assert_eq!(limits.count(), 2);
    }
}
