//! The terminal against a management server and a service: the real protocol,
//! over real TLS, with what can go wrong switched on by the test.

#[cfg(test)]
mod binding;
#[cfg(test)]
mod command;
#[cfg(test)]
mod counters;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod enrolment;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod privacy;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod sign_on;
