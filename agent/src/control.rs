//! The control connections: requests one after the other, each answered before the next is read.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::libc::SIGKILL;
use runvm_proto::{
    Answer, FrameError, Hello, MessageError, Process, Remote, Request, StreamHeader, frame,
};

use crate::container::{ContainerError, Containers};
use crate::oom::WatchError;
use crate::reaper::First;

/// Why a conversation broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConversationError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("cannot wait for {process}")]
    Wait { process: Process, source: io::Error },
}

/// Leads one conversation to its end.
pub(crate) fn converse(
    mut connection: File,
    containers: &Arc<Containers>,
) -> Result<(), ConversationError> {
    let mut conversation = Conversation {
        containers,
        lives: Vec::new(),
    };
    Hello::send(&mut connection)?;
    Hello::expect(&mut connection)?;
    while let Some((request, payload)) = frame::read::<Request>(&mut connection)? {
        let Some(answer) = conversation.answer(&connection, request, &payload)? else {
            break;
        };
        frame::write(&mut connection, &answer, b"")?;
    }
    Ok(())
}

/// One host process's side of things.
struct Conversation<'a> {
    containers: &'a Containers,
    /// The processes that live no longer than this conversation.
    lives: Vec<Process>,
}

impl Conversation<'_> {
    /// Does what is asked; `None` when there is nobody left to answer.
    fn answer(
        &mut self,
        connection: &File,
        request: Request,
        payload: &[u8],
    ) -> Result<Option<Answer>, ConversationError> {
        let all = self.containers;
        let done = match request {
            Request::Wait { process } => return self.wait(connection, process),
            Request::WatchOom { container } => return self.watch_oom(connection, &container),
            Request::Shutdown => {
                all.watches.end();
                crate::shut_down()
            }
            Request::Create {
                container,
                streams,
                no_new_keyring,
            } => all
                .create(&container, payload, &streams, no_new_keyring)
                .map(|made| Answer::Created {
                    isolated_ns: made.isolated_ns,
                    ready_ns: made.ready_ns,
                    warnings: made.warnings,
                }),
            Request::Exec {
                process,
                streams,
                sub_cgroups,
            } => all
                .exec(&process, payload, &streams, &sub_cgroups)
                .map(|()| {
                    self.lives.push(process);
                    Answer::Running
                }),
            Request::Processes { container } => all.processes(&container).map(Answer::Processes),
            Request::Stats { container } => all.stats(&container).map(Answer::Stats),
            Request::Pids { container } => all.pids(&container).map(Answer::Pids),
            Request::Start { container } => all.start(&container, payload).map(done),
            Request::Kill {
                process,
                signal,
                all: every,
            } => all.kill(&process, signal, every).map(done),
            Request::Resize {
                process,
                height,
                width,
            } => all.resize(&process, height, width).map(done),
            Request::Pause { container } => all.freeze(&container, true).map(done),
            Request::Resume { container } => all.freeze(&container, false).map(done),
            Request::Update { container } => all.update(&container, payload).map(done),
            Request::Delete { container } => all.delete(&container).map(done),
        };
        Ok(Some(done.unwrap_or_else(failed)))
    }

    fn wait(
        &mut self,
        connection: &File,
        process: Process,
    ) -> Result<Option<Answer>, ConversationError> {
        let exit = match self.containers.exit(&process) {
            Ok(exit) => exit,
            Err(error) => return Ok(Some(failed(error))),
        };
        let first = exit
            .wait(connection)
            .map_err(|source| ConversationError::Wait {
                process: process.clone(),
                source,
            })?;
        let First::Exit(status) = first else {
            return Ok(None);
        };
        self.containers.forget_exec(&process);
        self.lives.retain(|life| *life != process);
        Ok(Some(Answer::Exited(status)))
    }

    /// The rest of the conversation is the watch.
    fn watch_oom(
        &mut self,
        mut connection: &File,
        container: &str,
    ) -> Result<Option<Answer>, ConversationError> {
        let watch = match self.containers.watch_oom(container) {
            Ok(watch) => watch,
            Err(error) => return Ok(Some(failed(error))),
        };
        frame::write(&mut connection, &Answer::Done, b"")?;
        self.containers.watches.tell(watch, connection)?;
        Ok(None)
    }
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        for process in &self.lives {
            // One that has ended by itself needs no killing.
            let _ = self.containers.kill(process, SIGKILL, false);
        }
    }
}

fn done((): ()) -> Answer {
    Answer::Done
}

fn failed(error: ContainerError) -> Answer {
    Answer::Failed(Remote::from(error))
}

/// Learns whose a stream is, and brings it there.
pub(crate) fn bring_stream(
    mut connection: File,
    containers: &Arc<Containers>,
) -> Result<(), ConversationError> {
    let header = StreamHeader::receive(&mut connection)?;
    containers
        .streams
        .bring(header.process, header.stream, connection);
    Ok(())
}
