//! Bodies of answers: whole, or written piece by piece by a future that belongs to the body.
//!
//! A written body has no task of its own: the connection that sends it drives the future, so a piece
//! goes out by the poll that made it, a client that does not read stops it, and one that leaves drops
//! it with everything it holds.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Bytes, Frame, SizeHint};

/// An answer's body.
pub struct Body(Content);

enum Content {
    Whole(Option<Bytes>),
    Written { slot: Slot, writing: Option<Writing> },
}

type Slot = Arc<Mutex<Option<Bytes>>>;
type Writing = Pin<Box<dyn Future<Output = Result<(), Cut>> + Send>>;

/// Ends a body before its end, which the other side can tell from a complete one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer broke off")]
pub struct Cut;

/// Takes the pieces of a body that is written.
pub struct Writer {
    slot: Slot,
}

impl Body {
    pub fn whole(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        Body(Content::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    pub fn empty() -> Body {
        Body(Content::Whole(None))
    }

    /// A body of what `write`'s future gives to the writer, until it ends.
    pub fn written<F>(write: impl FnOnce(Writer) -> F) -> Body
    where
        F: Future<Output = Result<(), Cut>> + Send + 'static,
    {
        let slot = Slot::default();
        let writing = Box::pin(write(Writer { slot: Arc::clone(&slot) }));
        Body(Content::Written { slot, writing: Some(writing) })
    }
}

impl Writer {
    /// Returns when there is room for the next piece, which is before this one was sent.
    pub async fn send(&mut self, bytes: Bytes) {
        let mut bytes = Some(bytes);
        // Nobody has to be woken: the body empties the slot before it polls this future again.
        poll_fn(|_| {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.is_some() {
                return Poll::Pending;
            }
            *slot = bytes.take();
            Poll::Ready(())
        })
        .await;
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let (slot, writing) = match &mut self.get_mut().0 {
            Content::Whole(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Content::Written { slot, writing } => (slot, writing),
        };
        let take = || slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What an ended future left behind, or nothing.
        if let Some(bytes) = take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(future) = writing else { return Poll::Ready(None) };
        let ended = future.as_mut().poll(context);
        let bytes = take();
        match (bytes, ended) {
            (Some(bytes), Poll::Pending) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            (None, Poll::Pending) => Poll::Pending,
            (Some(bytes), Poll::Ready(end)) => {
                // The cut comes with the poll after this one.
                *writing = end.err().map(|cut| Box::pin(std::future::ready(Err(cut))) as Writing);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            (None, Poll::Ready(end)) => {
                *writing = None;
                Poll::Ready(end.err().map(Err))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Written { .. } => SizeHint::new(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match &self.0 {
            Content::Whole(_) => "Body(whole)",
            Content::Written { .. } => "Body(written)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn pieces_come_in_order_and_a_cut_comes_last() {
        let mut body = Body::written(|mut writer| async move {
            for piece in ["a", "b", "c"] {
                writer.send(Bytes::from_static(piece.as_bytes())).await;
                tokio::task::yield_now().await;
            }
            Err(Cut)
        });
        let mut text = Vec::new();
        let end = loop {
            match body.frame().await {
                Some(Ok(frame)) => text.extend_from_slice(&frame.into_data().unwrap()),
                end => break end,
            }
        };
        assert_eq!(text, b"abc");
        assert_eq!(end.map(Result::err), Some(Some(Cut)));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn the_last_piece_of_a_future_that_ended_is_sent() {
        let body = Body::written(|mut writer| async move {
            writer.send(Bytes::from_static(b"all")).await;
            Ok(())
        });
        assert_eq!(body.collect().await.unwrap().to_bytes(), "all");
        assert_eq!(Body::whole("x").collect().await.unwrap().to_bytes(), "x");
    }
}
