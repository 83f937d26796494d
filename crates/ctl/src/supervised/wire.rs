//! What `coordctl` and its keeper say to each other, on a pair of sockets: JSON, one value a line.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::watchdog::Lease;

/// To the keeper. The first one is a lease; the command is started when it has come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Lease(Lease),
    /// Hand this on to the command.
    Signal(i32),
    /// End the command and all it has started, by SIGKILL after that time.
    Stop {
        within: Duration,
    },
}

/// From the keeper. The last thing it says is one of the other two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The command runs, as this process.
    Started { pid: i32 },
    /// The command cannot be started; the exit code is what a shell would give.
    NotStarted { code: u8, message: String },
    /// The command has ended, and nothing that it started is left.
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
        /// It was told to.
        was_stopped: bool,
        /// It was told to because the lease had run out.
        ran_out: bool,
    },
}

/// Hands a file descriptor over, with one byte, before anything else is said.
pub(super) fn send_descriptor(control: &UnixStream, descriptor: impl AsFd) -> std::io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(control, &[IoSlice::new(b"\n")], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Takes it.
pub(super) fn receive_descriptor(control: &UnixStream) -> std::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // One byte, so that nothing of what follows is taken.
    let mut byte = [0];
    recvmsg(control, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    Err(std::io::Error::other("coordctl has not sent its standard input"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn a_descriptor_arrives_and_what_follows_is_left() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        file.rewind().unwrap();
        send_descriptor(&ours, &file).unwrap();
        ours.write_all(b"next").unwrap();
        drop(ours);
        let mut received = std::fs::File::from(receive_descriptor(&theirs).unwrap());
        let (mut text, mut rest) = (String::new(), String::new());
        received.read_to_string(&mut text).unwrap();
        theirs.read_to_string(&mut rest).unwrap();
        assert_eq!((text.as_str(), rest.as_str()), ("hello", "next"));
    }
}
