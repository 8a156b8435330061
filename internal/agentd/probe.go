package agentd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/agentapi"
	"lighter/sshtransport"
)

// probeTimeout is how long an agent that is there may take to answer.
const probeTimeout = 10 * time.Second

// found is the agent that answers on a socket.
type found struct {
	sshtransport.StartAnswer
	running int // builds
}

// ErrNoAgent is matched by the error of Stop if there is none.
var ErrNoAgent = errors.New("no agent answers")

// probe asks who answers on a socket.
func probe(ctx context.Context, socket string) (*found, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s", ErrNoAgent, socket)
	case err != nil:
		return nil, err
	}
	defer conn.Close()
	pid, err := PeerProcess(conn.(*net.UnixConn))
	if err != nil {
		return nil, err
	}
	client := agentapi.NewClient(func(context.Context) (net.Conn, error) { return conn, nil })
	defer client.Close()
	m, err := client.Machine(ctx)
	if err != nil {
		var answer *agentapi.Error
		if errors.As(err, &answer) || ctx.Err() != nil {
			return nil, fmt.Errorf("agent %d on %s does not answer: %w", pid, socket, err)
		}
		return nil, fmt.Errorf("%w on %s: %w", ErrNoAgent, socket, err) // it is just ending
	}
	return &found{
		StartAnswer: sshtransport.StartAnswer{Socket: socket, Version: m.Version, PID: pid},
		running:     m.Running,
	}, nil
}

// PeerProcess returns the process that made the socket at the other end of a connection; the kernel knows.
func PeerProcess(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("who listens: %w", err)
	}
	return int(cred.Pid), nil
}
