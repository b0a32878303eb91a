//! The pump's questions to tasks.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::error::StageError;
use crate::outlet::Outlet;

/// Asks the resolver, or another task, and serves deliveries until it answers.
pub(crate) fn ask<T, Q>(
    questions: &mpsc::Sender<Q>,
    out: &mut Outlet,
    question: impl FnOnce(oneshot::Sender<Result<T, StageError>>) -> Q,
) -> Result<T, StageError> {
    out.offer_staged()?;
    let (answer, mut answered) = oneshot::channel();
    questions.try_send(question(answer)).map_err(|_| StageError::Stopped)?;
    loop {
        match answered.try_recv() {
            Ok(result) => return result,
            Err(oneshot::error::TryRecvError::Empty) => {
                out.serve(Duration::from_millis(1))?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(oneshot::error::TryRecvError::Closed) => return Err(StageError::Stopped),
        }
    }
}
