//! Frames between two nodes that hold the same key: Noise `NNpsk0` (revision 34 of its specification), which proves to
//! each side that the other has the key, encrypts, and keeps what was said secret even if the key is lost later.
//!
//! ```text
//!   | length, 2 bytes, network order | Noise message |      handshake: one each way; then JSON
//! ```

use std::io;

use snow::{Builder, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest frame's content in bytes: what a Noise message holds besides its tag.
pub const FRAME: usize = LONGEST - TAG;

/// Longest Noise message in bytes.
const LONGEST: usize = 65_535;
const TAG: usize = 16;
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Names the protocol, so that the key proves nothing elsewhere.
const PROLOGUE: &[u8] = b"xdp-lb peers 1";

/// The key that all peers share, in the form that the handshake wants.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Shortest secret in bytes: a handshake can be recorded and guessed at offline.
pub const SHORTEST_SECRET: usize = 32;

impl Key {
    /// Of the secret in a file.
    ///
    /// # Errors
    /// One that is shorter than [`SHORTEST_SECRET`].
    pub fn new(secret: &[u8]) -> io::Result<Self> {
        use sha2::{Digest as _, Sha256};
        if secret.len() < SHORTEST_SECRET {
            let what = format!("the key has {} bytes, at least {SHORTEST_SECRET} are needed", secret.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Self(Sha256::digest(secret).into()))
    }
}

/// A connection on which both sides have proved the key.
pub struct Channel<S> {
    stream: S,
    noise: TransportState,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    /// Opens a channel on a connection that this side has made.
    ///
    /// # Errors
    /// The connection's, and `PermissionDenied` when the other side has another key.
    pub async fn connect(mut stream: S, key: &Key) -> io::Result<Self> {
        let mut noise = builder(key)?.build_initiator().map_err(wrong_key)?;
        let mut buffer = [0; LONGEST];
        let len = noise.write_message(&[], &mut buffer).map_err(wrong_key)?;
        write(&mut stream, &buffer[..len]).await?;
        let answer = read(&mut stream).await?;
        noise.read_message(&answer, &mut buffer).map_err(wrong_key)?;
        Ok(Self { stream, noise: noise.into_transport_mode().map_err(wrong_key)? })
    }

    /// Opens a channel on a connection that the other side has made.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub async fn accept(mut stream: S, key: &Key) -> io::Result<Self> {
        let mut noise = builder(key)?.build_responder().map_err(wrong_key)?;
        let mut buffer = [0; LONGEST];
        let hello = read(&mut stream).await?;
        noise.read_message(&hello, &mut buffer).map_err(wrong_key)?;
        let len = noise.write_message(&[], &mut buffer).map_err(wrong_key)?;
        write(&mut stream, &buffer[..len]).await?;
        Ok(Self { stream, noise: noise.into_transport_mode().map_err(wrong_key)? })
    }

    /// Sends a frame of [`FRAME`] bytes at most.
    ///
    /// # Errors
    /// The connection's.
    pub async fn send(&mut self, content: &[u8]) -> io::Result<()> {
        let mut buffer = vec![0; content.len() + TAG];
        let len = self.noise.write_message(content, &mut buffer).map_err(broken)?;
        write(&mut self.stream, &buffer[..len]).await
    }

    /// The next frame; `UnexpectedEof` after the last.
    ///
    /// # Errors
    /// The connection's, and a frame that was tampered with.
    pub async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let message = read(&mut self.stream).await?;
        let mut content = vec![0; message.len()];
        let len = self.noise.read_message(&message, &mut content).map_err(broken)?;
        content.truncate(len);
        Ok(content)
    }
}

fn builder(key: &Key) -> io::Result<Builder<'_>> {
    let pattern = PATTERN.parse().map_err(broken)?;
    Builder::new(pattern).psk(0, &key.0).and_then(|b| b.prologue(PROLOGUE)).map_err(broken)
}

fn wrong_key(_: snow::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the other side has another key, or is no xdp-lb of this version",
    )
}

fn broken(e: snow::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut frame = Vec::with_capacity(message.len() + 2);
    frame.extend(len.to_be_bytes());
    frame.extend(message);
    stream.write_all(&frame).await?;
    stream.flush().await
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::new(&[n; SHORTEST_SECRET]).expect("long enough")
    }

    #[tokio::test]
    async fn both_hear_what_the_other_says_and_nobody_else_does() {
        let (a, b) = tokio::io::duplex(1 << 20);
        let key = key(1);
        let (a, b) = tokio::join!(Channel::connect(a, &key), Channel::accept(b, &key));
        let (mut a, mut b) = (a.expect("connected"), b.expect("accepted"));
        let long = vec![7; FRAME];
        a.send(b"hello").await.expect("sent");
        a.send(&long).await.expect("sent");
        assert_eq!(b.receive().await.expect("received"), b"hello");
        assert_eq!(b.receive().await.expect("received"), long);
        b.send(b"yes").await.expect("sent");
        assert_eq!(a.receive().await.expect("received"), b"yes");
        assert!(a.send(&[0; FRAME + 1]).await.is_err());
        drop(a);
        assert_eq!(b.receive().await.expect_err("ended").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn another_key_opens_nothing() {
        let (a, b) = tokio::io::duplex(1 << 20);
        let accepted = tokio::spawn(async move { Channel::accept(b, &key(2)).await.map(|_| ()) });
        assert!(Channel::connect(a, &key(1)).await.is_err());
        let refused = accepted.await.expect("no panic").expect_err("refused");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn a_frame_that_was_changed_on_the_way_is_refused() {
        let (a, mut middle_a) = tokio::io::duplex(1 << 20);
        let (mut middle_b, b) = tokio::io::duplex(1 << 20);
        let man = tokio::spawn(async move {
            for frame in 0.. {
                // One frame each way first: the handshake.
                let mut message = read(&mut middle_a).await.expect("a frame");
                if frame == 1 {
                    message[0] ^= 1;
                }
                write(&mut middle_b, &message).await.expect("passed on");
                if frame == 1 {
                    break;
                }
                let answer = read(&mut middle_b).await.expect("a frame");
                write(&mut middle_a, &answer).await.expect("passed on");
            }
        });
        let key = key(1);
        let (a, b) = tokio::join!(Channel::connect(a, &key), Channel::accept(b, &key));
        a.expect("connected").send(b"hello").await.expect("sent");
        let refused = b.expect("accepted").receive().await.expect_err("refused");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        man.await.expect("no panic");
    }

    #[test]
    fn a_short_key_is_refused_and_no_key_is_shown() {
        assert!(Key::new(&[0; SHORTEST_SECRET - 1]).is_err());
        assert_eq!(format!("{:?}", key(9)), "Key(..)");
    }
}
