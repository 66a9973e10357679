//! Progress of calls, in the order in which the upstream sent it.
//!
//! rmcp hands every notification to a task of its own, and tasks overtake one another. So progress is taken out of the messages
//! on their way to rmcp, one after the other.

use std::{collections::HashMap, sync::Arc};

use rmcp::{
    RoleClient,
    model::{JsonRpcMessage, ProgressNotificationParam, ProgressToken, ServerNotification},
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::Transport,
};
use tokio::sync::{Mutex, MutexGuard, mpsc};

/// What the upstream says about a call while it runs.
pub type Progress = mpsc::Sender<ProgressNotificationParam>;

/// Who is told of which call's progress.
#[derive(Debug, Clone, Default)]
pub struct Routes(Arc<Mutex<HashMap<ProgressToken, Progress>>>);

impl Routes {
    /// Nothing is delivered while the lock is held: so no progress comes before its receiver.
    pub async fn lock(&self) -> MutexGuard<'_, HashMap<ProgressToken, Progress>> {
        self.0.lock().await
    }

    async fn deliver(&self, params: ProgressNotificationParam) {
        if let Some(to) = self.0.lock().await.get(&params.progress_token) {
            // A caller that does not read its progress loses some of it, never the result.
            drop(to.try_send(params));
        }
    }
}

/// A transport whose progress goes to `routes`.
pub struct InOrder<T> {
    transport: T,
    routes: Routes,
    /// Taken out and not delivered yet: a receive may be dropped half way.
    waiting: Option<ProgressNotificationParam>,
}

impl<T> InOrder<T> {
    pub const fn new(transport: T, routes: Routes) -> Self {
        Self { transport, routes, waiting: None }
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for InOrder<T> {
    type Error = T::Error;

    fn send(&mut self, item: TxJsonRpcMessage<RoleClient>) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.transport.send(item)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            if let Some(params) = &self.waiting {
                self.routes.deliver(params.clone()).await;
                self.waiting = None;
            }
            match self.transport.receive().await? {
                JsonRpcMessage::Notification(message) => match message.notification {
                    ServerNotification::ProgressNotification(progress) => self.waiting = Some(progress.params),
                    notification => return Some(JsonRpcMessage::notification(notification)),
                },
                message => return Some(message),
            }
        }
    }

    fn close(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        self.transport.close()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use rmcp::model::{ProgressNotification, ToolListChangedNotification};

    use super::*;

    struct Said(VecDeque<RxJsonRpcMessage<RoleClient>>);

    impl Transport<RoleClient> for Said {
        type Error = Infallible;
        fn send(&mut self, _: TxJsonRpcMessage<RoleClient>) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
            std::future::ready(Ok(()))
        }
        async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
            self.0.pop_front()
        }
        async fn close(&mut self) -> Result<(), Infallible> {
            Ok(())
        }
    }

    fn step(token: &ProgressToken, n: u32) -> RxJsonRpcMessage<RoleClient> {
        let params = ProgressNotificationParam::new(token.clone(), f64::from(n));
        JsonRpcMessage::notification(ServerNotification::ProgressNotification(ProgressNotification::new(params)))
    }

    /// Nothing is lost where a receive is dropped while nobody may be told yet, and the rest goes on to rmcp.
    #[tokio::test]
    async fn progress_keeps_its_order_also_over_a_receive_that_is_dropped() {
        let (routes, token) = (Routes::default(), ProgressToken(rmcp::model::NumberOrString::Number(7)));
        let (to, mut told) = mpsc::channel(64);
        let changed = ServerNotification::ToolListChangedNotification(ToolListChangedNotification::default());
        let mut said: VecDeque<_> = (0..20).map(|n| step(&token, n)).collect();
        said.push_back(JsonRpcMessage::notification(changed));
        let mut transport = InOrder::new(Said(said), routes.clone());
        let mut held = routes.lock().await;
        let early = tokio::time::timeout(std::time::Duration::from_millis(10), transport.receive());
        assert!(early.await.is_err(), "it waits for the receiver");
        held.insert(token, to);
        drop(held);
        let other = transport.receive().await.unwrap();
        assert!(matches!(
            other,
            JsonRpcMessage::Notification(n) if matches!(n.notification, ServerNotification::ToolListChangedNotification(_))
        ));
        assert!(transport.receive().await.is_none());
        drop((transport, routes));
        let mut steps = Vec::new();
        while let Some(params) = told.recv().await {
            steps.push(params.progress);
        }
        assert_eq!(steps, (0..20).map(f64::from).collect::<Vec<_>>());
    }
}
