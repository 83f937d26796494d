//! The answer to calls that reach a port which is meant for others.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// Takes the place of the service `S` on a port where it is not, and answers each of its calls with the same refusal.
pub struct WrongPort<S> {
    refusal: Status,
    service: PhantomData<fn() -> S>,
}

impl<S> WrongPort<S> {
    /// Refuses with `refusal`, which says where to go.
    pub fn new(refusal: Status) -> Self {
        WrongPort { refusal, service: PhantomData }
    }
}

impl<S> Clone for WrongPort<S> {
    fn clone(&self) -> Self {
        WrongPort::new(self.refusal.clone())
    }
}

impl<S: NamedService> NamedService for WrongPort<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for WrongPort<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<B>) -> Self::Future {
        ready(Ok(self.refusal.clone().into_http()))
    }
}
