use std::net::UdpSocket;
use std::process::{Child, Command};
use std::sync::{Arc, mpsc};

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{CONTROLLER, HostId, Switch, address_of};

/// Larger than Ethernet's: a packet costs the switch the same whatever its size.
const MTU: u16 = 9000;

type Spawn = (Command, mpsc::SyncSender<std::io::Result<Child>>);

/// A network namespace with one device, whose packets the switch has, and a thread that lives in it and starts processes
/// there. It goes with its thread and its processes.
pub(crate) struct Host {
    id: HostId,
    switch: Switch,
    spawns: mpsc::Sender<Spawn>,
}

impl Host {
    /// Makes one, and connects it.
    pub(crate) fn start(switch: &Switch, id: HostId) -> anyhow::Result<Host> {
        let (spawns, wanted) = mpsc::channel::<Spawn>();
        let (started, result) = mpsc::sync_channel(1);
        let run = move || {
            // Of this thread only; children inherit it.
            let made =
                unshare(CloneFlags::CLONE_NEWNET).context("a network namespace").and_then(|()| device(id));
            let is_made = made.is_ok();
            drop(started.send(made));
            if is_made {
                for (mut command, spawned) in wanted {
                    drop(spawned.send(command.spawn()));
                }
                say_goodbye();
            }
        };
        std::thread::Builder::new().name(format!("host {id}")).spawn(run)?;
        let device = result.recv().context("the thread of a host")??;
        switch.connect(id, Arc::new(device));
        Ok(Host { id, switch: switch.clone(), spawns })
    }

    pub(crate) fn id(&self) -> HostId {
        self.id
    }

    /// Starts a process on this host.
    pub(crate) fn spawn(&self, command: Command) -> anyhow::Result<Child> {
        let (spawned, result) = mpsc::sync_channel(1);
        let name = command.get_program().to_owned();
        self.spawns.send((command, spawned)).context("the host has gone")?;
        result.recv().context("the host has gone")?.with_context(|| format!("start {}", name.display()))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its thread ends with `spawns`, behind this.
        self.switch.disconnect(self.id);
    }
}

/// Sends one packet, from the namespace of this thread: whoever waits for packets of a device that is not connected any more wakes up and
/// lets go of it, and the namespace goes.
fn say_goodbye() {
    let sent =
        UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"", (address_of(CONTROLLER), 9)));
    // Then a thread and a namespace stay until the end of this process.
    drop(sent);
}

/// Gives the calling process' own namespace an address of the same network, as the controller's.
pub(crate) fn own_address() -> anyhow::Result<Arc<SyncDevice>> {
    Ok(Arc::new(device(CONTROLLER)?))
}

fn device(id: HostId) -> anyhow::Result<SyncDevice> {
    let builder = DeviceBuilder::new().name("coordd0").mtu(MTU).ipv4(address_of(id), 24, None);
    builder.build_sync().context("a TUN device (/dev/net/tun, and the rights of root)")
}
