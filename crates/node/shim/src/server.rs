//! The shim's loop: one thread, one `poll`, everything it waits for in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_runtime::cgroup::{Cgroup, Hierarchies};
use berth_runtime::seccomp::Program;
use berth_runtime::{
    Container, CreateError, CreateRequest, ExecRequest, Namespaces, Processes, Stdio,
};
use oci_spec::runtime::{Capability, Process};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::client::{SOCKET, short};
use crate::container::{Held, Source, reap, set_nonblocking};
use crate::exit_file::ExitFile;
use crate::log::{Journal, Stream};
use crate::protocol::{self, Exec, Exit, Filter, Reply, Request, Sandbox, Start, Visibility};

/// A peer that stops in the middle of a message may not hold the loop.
const PATIENCE: Duration = Duration::from_secs(5);

/// A shim.
pub struct Server {
    directory: PathBuf,
    listener: UnixListener,
    connections: Vec<Connection>,
    hierarchies: Hierarchies,
    sandbox: Sandbox,
    namespaces: Namespaces,
    containers: Vec<Held>,
    executions: Vec<Execution>,
    leaving: bool,
}

struct Connection {
    stream: UnixStream,
    subscribed: bool,
}

struct Execution {
    process: Container,
    connection: UnixStream,
}

/// What a polled descriptor stands for.
#[derive(Clone, Copy)]
enum Token {
    Listener,
    Connection(usize),
    Process(usize),
    Execution(usize),
    Output(usize, usize),
    Attachment(usize, usize),
}

impl Server {
    /// Listens in the pod's directory.
    pub fn bind(directory: &Path) -> io::Result<Self> {
        let path = directory.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (parent, name) = short(&path)?;
        let listener = UnixListener::bind(parent.1.join(name))?;
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600))?;
        Ok(Self {
            directory: directory.to_owned(),
            listener,
            connections: Vec::new(),
            hierarchies: Hierarchies::detect().map_err(io::Error::other)?,
            sandbox: Sandbox {
                user: None,
                network: false,
                ipc: false,
                processes: Visibility::Own,
                hostname: None,
                sysctls: Vec::new(),
            },
            namespaces: Namespaces::default(),
            containers: Vec::new(),
            executions: Vec::new(),
            leaving: false,
        })
    }

    /// Serves until told to leave.
    pub fn run(mut self) -> io::Result<()> {
        while !self.leaving {
            for token in self.ready()?.into_iter().rev() {
                self.handle(token)?;
            }
        }
        Ok(())
    }

    /// Waits until something happens. Later tokens are handled first, so that removals keep earlier indexes right.
    fn ready(&self) -> io::Result<Vec<Token>> {
        let mut tokens = vec![Token::Listener];
        let mut polled = vec![PollFd::new(&self.listener, PollFlags::IN)];
        for (index, connection) in self.connections.iter().enumerate() {
            tokens.push(Token::Connection(index));
            polled.push(PollFd::new(&connection.stream, PollFlags::IN));
        }
        for (index, execution) in self.executions.iter().enumerate() {
            tokens.push(Token::Execution(index));
            polled.push(PollFd::new(&execution.process.pidfd, PollFlags::IN));
        }
        for (index, container) in self.containers.iter().enumerate() {
            for (attachment, sink) in container.stalled() {
                tokens.push(Token::Attachment(index, attachment));
                polled.push(PollFd::new(sink, PollFlags::OUT));
            }
            if container.exit.is_some() {
                continue;
            }
            tokens.push(Token::Process(index));
            polled.push(PollFd::new(&container.process.pidfd, PollFlags::IN));
            if container.flowing() {
                for (source, output) in container.sources.iter().enumerate() {
                    tokens.push(Token::Output(index, source));
                    polled.push(PollFd::new(&output.pipe, PollFlags::IN));
                }
            }
        }
        rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
        Ok(polled
            .iter()
            .zip(tokens)
            .filter(|(polled, _)| !polled.revents().is_empty())
            .map(|(_, token)| token)
            .collect())
    }

    fn handle(&mut self, token: Token) -> io::Result<()> {
        match token {
            Token::Listener => {
                let (stream, _) = self.listener.accept()?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                self.connections.push(Connection { stream, subscribed: false });
            }
            Token::Connection(index) => self.serve(index),
            Token::Execution(index) => {
                let execution = self.executions.remove(index);
                let exit = reap(execution.process.pidfd.as_fd())?;
                let reply = Reply::Exited { container: String::new(), exit };
                // A client that has gone does not want to know.
                let _gone = protocol::send(&execution.connection, &reply, &[]);
            }
            Token::Process(index) => {
                let exit = self.containers[index].conclude()?;
                self.announce(index, exit)?;
            }
            Token::Output(index, source) => self.containers[index].read(source),
            Token::Attachment(index, attachment) => self.containers[index].resume(attachment),
        }
        Ok(())
    }

    /// Writes the exit down, for an agent that finds no shim, and tells the subscribers.
    fn announce(&mut self, index: usize, exit: Exit) -> io::Result<()> {
        let name = self.containers[index].name.clone();
        if let Err(error) = self.containers[index].exit_file.write(exit) {
            // The exit is still held in memory, which is where a living shim is asked.
            let message = format!("cannot write the exit of {name}: {error}\n");
            let _nowhere_left = rustix::io::write(io::stderr(), message.as_bytes());
        }
        let reply = Reply::Exited { container: name, exit };
        for connection in self.connections.iter_mut().filter(|connection| connection.subscribed) {
            // A subscriber that has gone is removed when its end is read; positions must not shift here.
            connection.subscribed = protocol::send(&connection.stream, &reply, &[]).is_ok();
        }
        Ok(())
    }

    fn serve(&mut self, index: usize) {
        let received = protocol::receive(&self.connections[index].stream);
        let Ok(Some((request, descriptors))) = received else {
            self.connections.remove(index);
            return;
        };
        let outcome = self.answer(index, request, descriptors);
        let Some((reply, descriptors)) = outcome else { return };
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        if protocol::send(&self.connections[index].stream, &reply, &borrowed).is_err() {
            self.connections.remove(index);
        }
    }

    /// The reply to a request. `None` when the request took the connection with it.
    fn answer(
        &mut self,
        index: usize,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Option<(Reply, Vec<OwnedFd>)> {
        let result = match request {
            Request::CreateSandbox(sandbox) => self.create_sandbox(sandbox),
            Request::Start(start) => self.start(*start),
            Request::Exec(exec) => return self.exec(index, &exec, descriptors),
            Request::Attach { container } => self.attach(&container, descriptors),
            Request::Signal { container, signal } => self.signal(&container, signal),
            Request::CloseInput { container } => self.find(&container).map(|held| {
                held.input = None;
                (Reply::Done, Vec::new())
            }),
            Request::State => self.state(),
            Request::Subscribe => {
                self.connections[index].subscribed = true;
                Ok((Reply::Done, Vec::new()))
            }
            Request::Forget { container } => {
                self.containers.retain(|held| held.name != container || held.exit.is_none());
                Ok((Reply::Done, Vec::new()))
            }
            Request::Shutdown => self.shutdown(),
        };
        Some(result.unwrap_or_else(|failure| (failure, Vec::new())))
    }

    fn create_sandbox(&mut self, sandbox: Sandbox) -> Result<(Reply, Vec<OwnedFd>), Reply> {
        self.namespaces =
            Namespaces::create(&sandbox.to_request()).map_err(|error| failed(&error))?;
        self.sandbox = sandbox;
        Ok((Reply::Sandbox, self.network()?))
    }

    fn network(&self) -> Result<Vec<OwnedFd>, Reply> {
        let copy = self.namespaces.network.as_ref().map(rustix::io::dup).transpose();
        copy.map(|network| network.into_iter().collect()).map_err(|error| failed(&error))
    }

    fn find(&mut self, name: &str) -> Result<&mut Held, Reply> {
        self.containers.iter_mut().find(|held| held.name == name && held.exit.is_none()).ok_or_else(
            || Reply::Failed { message: format!("container `{name}` does not run"), exit_code: 1 },
        )
    }

    fn start(&mut self, start: Start) -> Result<(Reply, Vec<OwnedFd>), Reply> {
        let cgroup = Cgroup::at(&self.hierarchies, &start.cgroup);
        let exit_file =
            ExitFile::reserve(&self.directory, &start.container).map_err(|error| failed(&error))?;
        let journal = Journal::open(&start.log, start.log_size, start.log_files)
            .map_err(|error| failed(&error))?;
        let seccomp = filter(&start.filter, start.spec.process().as_ref(), &start.spec)?;
        let (stdio, streams) = match start.terminal {
            Some((rows, columns)) => (Stdio::Terminal { rows, columns }, None),
            None => {
                let (stdio, streams) = pipes(start.stdin).map_err(|error| failed(&error))?;
                (Stdio::Descriptors(stdio), Some(streams))
            }
        };
        let target = match &start.processes_of {
            Some(name) => Some(self.find(name)?.process.pidfd.try_clone().map_err(|e| failed(&e))?),
            None => None,
        };
        let processes = match (self.sandbox.processes, &self.namespaces.processes, &target) {
            (Visibility::Host, _, _) => Processes::Host,
            (_, Some(namespace), _) => Processes::Join(namespace.as_fd()),
            (_, None, Some(target)) => Processes::Join(target.as_fd()),
            (_, None, None) => Processes::Own,
        };
        let alone = matches!(processes, Processes::Own);
        let program = seccomp.clone().filter(|_| matches!(start.filter, Filter::Configured));
        let mut process = Container::create(CreateRequest {
            processes,
            spec: &start.spec,
            rootfs: &start.root.to_rootfs(),
            namespaces: &self.namespaces,
            mapping: self.sandbox.mapping(),
            user: start.user.as_deref(),
            cgroup: Some(&cgroup),
            seccomp,
            stdio,
        })
        .map_err(|error| create_failed(&error))?;
        let terminal = process.terminal.take();
        let pid = process.pid.as_raw_nonzero().get();
        let mapped = self.sandbox.user.is_some();
        let mut held = Held::new(start.container, process, cgroup, mapped, journal, exit_file);
        held.alone = alone;
        held.program = program;
        if let Some((input, sources)) = streams {
            (held.input, held.sources) = (input, sources);
        }
        if let Some(terminal) = terminal {
            let output = rustix::io::dup(&terminal).map_err(|error| failed(&error))?;
            held.sources.push(Source { stream: Stream::Output, pipe: output });
            held.input = Some(terminal);
        }
        for source in &held.sources {
            set_nonblocking(&source.pipe).map_err(|error| failed(&error))?;
        }
        self.containers.push(held);
        Ok((Reply::Started { pid }, Vec::new()))
    }

    fn exec(
        &mut self,
        index: usize,
        exec: &Exec,
        descriptors: Vec<OwnedFd>,
    ) -> Option<(Reply, Vec<OwnedFd>)> {
        match self.start_exec(exec, descriptors) {
            Err(failure) => Some((failure, Vec::new())),
            Ok(mut process) => {
                let connection = self.connections.remove(index).stream;
                let reply = Reply::Started { pid: process.pid.as_raw_nonzero().get() };
                let terminal = process.terminal.take();
                let borrowed: Vec<BorrowedFd<'_>> = terminal.iter().map(AsFd::as_fd).collect();
                // The process runs either way and must be reaped; a client that has gone hears nothing.
                let _gone = protocol::send(&connection, &reply, &borrowed);
                self.executions.push(Execution { process, connection });
                None
            }
        }
    }

    fn start_exec(&mut self, exec: &Exec, descriptors: Vec<OwnedFd>) -> Result<Container, Reply> {
        let seccomp = match exec.filter {
            Filter::Configured => self.find(&exec.container)?.program.clone(),
            Filter::Unconfined => None,
            Filter::RuntimeDefault => Some(default_filter(Some(&exec.process))),
        };
        let held = self.find(&exec.container)?;
        let stdio = match exec.terminal {
            Some((rows, columns)) => Stdio::Terminal { rows, columns },
            None => Stdio::Descriptors(
                <[OwnedFd; 3]>::try_from(descriptors)
                    .map_err(|_| failed(&io::Error::other("three descriptors must come along")))?,
            ),
        };
        Container::exec(ExecRequest {
            process: &exec.process,
            user: exec.user.as_deref(),
            container: held.process.pidfd.as_fd(),
            mapped: held.mapped,
            cgroup: Some(&held.cgroup),
            seccomp,
            stdio,
        })
        .map_err(|error| create_failed(&error))
    }

    fn attach(
        &mut self,
        container: &str,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Reply> {
        let sinks = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| failed(&io::Error::other("two descriptors must come along")))?;
        let held = self.find(container)?;
        let input = held.input.as_ref().map(rustix::io::dup).transpose();
        let input = input.map_err(|error| failed(&error))?;
        let (offset, first) = held.attach(sinks).map_err(|error| failed(&error))?;
        Ok((Reply::Attached { offset, first }, input.into_iter().collect()))
    }

    fn signal(&mut self, container: &str, number: i32) -> Result<(Reply, Vec<OwnedFd>), Reply> {
        if !(1..=64).contains(&number) {
            return Err(failed(&io::Error::other(format!("there is no signal {number}"))));
        }
        if let Ok(held) = self.find(container) {
            match berth_sys::signal::send(held.process.pidfd.as_fd(), number) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(failed(&error));
                }
                _ => {}
            }
        }
        Ok((Reply::Done, Vec::new()))
    }

    fn state(&self) -> Result<(Reply, Vec<OwnedFd>), Reply> {
        let state = self.containers.iter().map(Held::state).collect();
        Ok((Reply::State(state), self.network()?))
    }

    /// Kills the containers and waits for their ends, so that nothing of the pod runs when the answer goes out.
    fn shutdown(&mut self) -> Result<(Reply, Vec<OwnedFd>), Reply> {
        for held in self.containers.iter().filter(|held| held.exit.is_none()) {
            held.cgroup.kill().map_err(|error| failed(&error))?;
        }
        // Further processes first: a container's first process does not end before all others of its pid namespace are
        // reaped, and these are our children, not its.
        for execution in self.executions.drain(..) {
            reap(execution.process.pidfd.as_fd()).map_err(|error| failed(&error))?;
        }
        // For the same reason those first that came later and may have joined others.
        for index in (0..self.containers.len()).rev() {
            if self.containers[index].exit.is_none() {
                let exit = self.containers[index].conclude().map_err(|error| failed(&error))?;
                self.announce(index, exit).map_err(|error| failed(&error))?;
            }
        }
        self.namespaces.release().map_err(|error| failed(&error))?;
        self.leaving = true;
        // Whoever has the answer finds no shim any more.
        std::fs::remove_file(self.directory.join(SOCKET)).map_err(|error| failed(&error))?;
        Ok((Reply::Done, Vec::new()))
    }
}

fn filter(
    filter: &Filter,
    process: Option<&Process>,
    spec: &oci_spec::runtime::Spec,
) -> Result<Option<Program>, Reply> {
    match filter {
        Filter::Unconfined => Ok(None),
        Filter::RuntimeDefault => Ok(Some(default_filter(process))),
        Filter::Configured => {
            let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
            profile.map(Program::compile).transpose().map_err(|error| failed(&error))
        }
    }
}

fn default_filter(process: Option<&Process>) -> Program {
    let bounding = process
        .and_then(|process| process.capabilities().as_ref())
        .and_then(|sets| sets.bounding().as_ref());
    let capabilities: Vec<Capability> = bounding.into_iter().flatten().copied().collect();
    Program::runtime_default(&capabilities)
}

type Streams = (Option<OwnedFd>, Vec<Source>);

/// Descriptors for the process, and our ends of them.
fn pipes(stdin: bool) -> io::Result<([OwnedFd; 3], Streams)> {
    let (input, ours) = if stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        (read, Some(write))
    } else {
        (std::fs::File::open("/dev/null")?.into(), None)
    };
    let (output, output_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (error, error_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let sources = vec![
        Source { stream: Stream::Output, pipe: output },
        Source { stream: Stream::Error, pipe: error },
    ];
    Ok(([input, output_write, error_write], (ours, sources)))
}

fn failed(error: &dyn std::error::Error) -> Reply {
    Reply::Failed { message: berth_report::chain(error), exit_code: 1 }
}

fn create_failed(error: &CreateError) -> Reply {
    Reply::Failed { message: berth_report::chain(error), exit_code: error.exit_code() }
}
