//! Admission: limited numbers of running and waiting requests, with a fair share for each client.
//!
//! One client has at most three quarters of the places, running and waiting, so that another finds one. A free place goes to
//! the client with the fewest running requests, and among equals to the earliest request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::{Context, Error, Result, SqlState};

/// A client: a machine. On loopback, where any user may be behind the address, a client is a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Client(Option<SocketAddr>);

impl Client {
    /// The client at the other end of a connection.
    pub fn at(peer: SocketAddr) -> Self {
        let is_loopback = peer.ip().to_canonical().is_loopback();
        Self(Some(if is_loopback { peer } else { SocketAddr::new(peer.ip(), 0) }))
    }
}

/// A gate; clones share their state.
#[derive(Debug, Clone)]
pub struct Gate {
    state: Arc<Mutex<Admitted>>,
    places: usize,
    max_waiting: usize,
}

/// The places taken, and the queue.
#[derive(Debug, Default)]
struct Admitted {
    taken: usize,
    inside: HashMap<Client, usize>,
    queue: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    client: Client,
    turn: oneshot::Sender<Place>,
}

/// A place behind a gate, free again when dropped.
#[derive(Debug)]
pub struct Place {
    gate: Gate,
    client: Client,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.leave(self.client);
    }
}

/// The share of `places` that one client may have.
fn share(places: usize) -> usize {
    places - places / 4
}

impl Gate {
    /// A gate with this many places and at most `max_waiting` in the queue.
    pub fn new(places: usize, max_waiting: usize) -> Self {
        Self { state: Arc::default(), places, max_waiting }
    }

    /// True while a place is taken.
    pub fn is_busy(&self) -> bool {
        self.lock().taken > 0
    }

    /// The number of waiting queries.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// A place, if one is free for this client.
    pub fn try_enter(&self, client: Client) -> Option<Place> {
        self.admit(&mut self.lock(), client)
    }

    fn admit(&self, state: &mut Admitted, client: Client) -> Option<Place> {
        let has_room = state.taken < self.places && state.inside_of(client) < share(self.places);
        has_room.then(|| self.place(state, client))
    }

    /// Waits for a place. Errors: too many wait, in total or of this client; `what` names them in the message.
    pub async fn enter(&self, client: Client, what: &str) -> Result<Place> {
        let turn = {
            let mut state = self.lock();
            state.queue.retain(|waiter| !waiter.turn.is_closed());
            if let Some(place) = self.admit(&mut state, client) {
                return Ok(place);
            }
            let own = state.queue.iter().filter(|waiter| waiter.client == client).count();
            if state.queue.len() >= self.max_waiting || own >= share(self.max_waiting) {
                return Err(self.refusal(what, state.queue.len(), own));
            }
            let (turn, wait) = oneshot::channel();
            state.queue.push(Waiter { client, turn });
            wait
        };
        turn.await.internal(|| "gate is closed".to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, Admitted> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, state: &mut Admitted, client: Client) -> Place {
        state.taken += 1;
        *state.inside.entry(client).or_default() += 1;
        Place { gate: self.clone(), client }
    }

    fn refusal(&self, what: &str, waiting: usize, own: usize) -> Error {
        let message = format!("server is busy: {} {what} run and {waiting} wait, {own} of this client", self.places);
        Error::environment(message)
            .with_state(SqlState::TOO_MANY)
            .with_hint("Ask again later, or raise `flight.max_queries` or `flight.max_waiting`.")
    }

    fn leave(&self, client: Client) {
        let mut turns = Vec::new();
        {
            let mut state = self.lock();
            state.taken -= 1;
            if let Some(inside) = state.inside.get_mut(&client) {
                *inside -= 1;
                if *inside == 0 {
                    state.inside.remove(&client);
                }
            }
            state.queue.retain(|waiter| !waiter.turn.is_closed());
            while state.taken < self.places
                && let Some(next) = state.next(share(self.places))
            {
                let Waiter { client, turn } = state.queue.remove(next);
                let place = self.place(&mut state, client);
                turns.push((turn, place));
            }
        }
        for (turn, place) in turns {
            // A waiter that is gone drops its place, which frees it.
            let _ = turn.send(place);
        }
    }
}

impl Admitted {
    fn inside_of(&self, client: Client) -> usize {
        self.inside.get(&client).copied().unwrap_or(0)
    }

    /// The index of the next waiter to be admitted, among clients with fewer than `most` places.
    fn next(&self, most: usize) -> Option<usize> {
        let inside = self.queue.iter().map(|waiter| self.inside_of(waiter.client)).enumerate();
        inside.filter(|(_, inside)| *inside < most).min_by_key(|(_, inside)| *inside).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context as TaskContext, Poll, Waker};

    use super::*;

    fn client(address: &str) -> Client {
        Client::at(address.parse().unwrap())
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut TaskContext::from_waker(Waker::noop()))
    }

    #[test]
    fn machines_are_clients_and_on_loopback_connections_are() {
        assert_eq!(client("10.0.0.1:7"), client("10.0.0.1:8"));
        assert_ne!(client("10.0.0.1:7"), client("10.0.0.2:7"));
        assert_ne!(client("127.0.0.1:7"), client("127.0.0.1:8"));
        assert_ne!(client("[::ffff:127.0.0.1]:7"), client("[::ffff:127.0.0.1]:8"));
    }

    #[tokio::test]
    async fn one_client_leaves_places_to_others_and_places_in_the_queue() {
        let gate = Gate::new(4, 8);
        let (greedy, modest) = (client("10.0.0.1:1"), client("10.0.0.2:1"));
        let mut inside = Vec::new();
        for _ in 0..3 {
            inside.push(gate.enter(greedy, "queries").await.unwrap());
        }
        let mut waiting: Vec<_> = (0..6).map(|_| Box::pin(gate.enter(greedy, "queries"))).collect();
        assert!(waiting.iter_mut().all(|turn| poll(turn.as_mut()).is_pending()));
        let refused = gate.enter(greedy, "queries").await.unwrap_err();
        assert_eq!(refused.state(), SqlState::TOO_MANY);
        // The other client gets a place at once, then one in the queue, and then the next free place.
        let first = gate.enter(modest, "queries").await.unwrap();
        let mut second = pin!(gate.enter(modest, "queries"));
        assert!(poll(second.as_mut()).is_pending());
        inside.pop();
        let Poll::Ready(Ok(second)) = poll(second.as_mut()) else { panic!("it was the other's turn") };
        assert!(waiting.iter_mut().all(|turn| poll(turn.as_mut()).is_pending()));
        drop((first, second));
        let ready = waiting.iter_mut().filter_map(|turn| match poll(turn.as_mut()) {
            Poll::Ready(place) => Some(place.unwrap()),
            Poll::Pending => None,
        });
        let admitted: Vec<Place> = ready.collect();
        assert_eq!(admitted.len(), 1);
    }

    #[tokio::test]
    async fn who_no_longer_waits_takes_no_place() {
        let gate = Gate::new(1, 4);
        let inside = gate.enter(Client::default(), "queries").await.unwrap();
        {
            let mut gone = pin!(gate.enter(Client::default(), "queries"));
            assert!(poll(gone.as_mut()).is_pending());
        }
        let mut stays = pin!(gate.enter(Client::default(), "queries"));
        assert!(poll(stays.as_mut()).is_pending());
        drop(inside);
        assert!(matches!(poll(stays.as_mut()), Poll::Ready(Ok(_))));
        assert!(!gate.is_busy(), "the place was given back");
    }
}
