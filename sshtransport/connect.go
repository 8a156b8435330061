package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// relayBuffer is how many bytes a relay moves at a time, each way.
const relayBuffer = 128 << 10

// ServeConnect is what "lighter-agent connect" does: it connects to the agent's
// socket, writes intro to it, which says who is at the other end, and the magic line to
// stdout, and relays both ways. The end of stdin is
// passed on to the agent, which may go on answering; ServeConnect returns when the
// agent has closed its end, or the context has ended. It may then leave a goroutine
// behind that is in stdin.Read; it ends with that call.
//
// Where no agent listens, nothing is written and the error is of the connect alone.
func ServeConnect(ctx context.Context, socket string, intro []byte, stdin io.Reader, stdout io.Writer) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("agent's socket: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write(intro); err != nil {
		return fmt.Errorf("agent's socket: %w", err)
	}
	if err := writeConnect(stdout); err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	return relay(ctx, conn.(*net.UnixConn), stdin, stdout)
}

// relay copies stdin to conn and conn to stdout until conn gives no more.
func relay(ctx context.Context, conn *net.UnixConn, stdin io.Reader, stdout io.Writer) error {
	failed := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(onlyWriter{conn}, onlyReader{stdin}, make([]byte, relayBuffer))
		if err == nil {
			err = conn.CloseWrite()
		}
		if err != nil {
			conn.Close() // ends the other direction
		}
		failed <- err
	}()
	_, err := io.CopyBuffer(onlyWriter{stdout}, onlyReader{conn}, make([]byte, relayBuffer))
	select {
	case sendErr := <-failed:
		if sendErr != nil && !errors.Is(sendErr, net.ErrClosed) && !errors.Is(sendErr, syscall.EPIPE) {
			err = sendErr
		}
	default: // the agent had enough before stdin ended
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// onlyReader and onlyWriter hide abilities that would make io.CopyBuffer use small
// buffers of its own.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
