//! How many connections there may be: in all and from one address (`max.connections`,
//! `max.connections.per.ip`).
//!
//! **Invariant:** a [`ConnectionPermit`] counts until it is dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// The counts; shared by every listener.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    count_max: usize,
    per_ip_max: usize,
    per_ip_overrides: BTreeMap<IpAddr, usize>,
    counts: Mutex<Counts>,
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
    pub(crate) fn new(
        count_max: usize,
        per_ip_max: usize,
        per_ip_overrides: BTreeMap<IpAddr, usize>,
    ) -> Arc<Self> {
        Arc::new(Self { count_max, per_ip_max, per_ip_overrides, counts: Mutex::default() })
    }

    /// Connections now open.
    pub(crate) fn count(&self) -> usize {
        self.counts.lock().expect("nothing panics in here").all
    }

    /// A permit for a connection from `ip`, or the limit it would exceed.
    pub(crate) fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<ConnectionPermit, &'static str> {
        let mut counts = self.counts.lock().expect("nothing panics in here");
        if counts.all >= self.count_max {
            return Err("max.connections");
        }
        let per_ip_max = self.per_ip_overrides.get(&ip).copied().unwrap_or(self.per_ip_max);
        let of_ip = counts.by_ip.get(&ip).copied().unwrap_or(0);
        if of_ip >= per_ip_max {
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
        let limits = ConnectionLimits::new(3, 5, BTreeMap::from([(there, 1)]));
        let first = limits.admit(there).unwrap();
        assert_eq!(limits.admit(there).unwrap_err(), "max.connections.per.ip");
        let _second = limits.admit(here).unwrap();
        let _third = limits.admit(here).unwrap();
        assert_eq!(limits.admit(here).unwrap_err(), "max.connections");
        drop(first);
        assert!(limits.admit(there).is_ok());
        assert_eq!(limits.count(), 2);
    }
}
