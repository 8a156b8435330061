package main

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

// errNoAgent is matched by the error of probe if nobody listens.
var errNoAgent = errors.New("no agent answers")

// probe asks who answers on a socket.
func probe(ctx context.Context, socket string) (*found, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s", errNoAgent, socket)
	case err != nil:
		return nil, err
	}
	defer conn.Close()
	pid, err := peer(conn.(*net.UnixConn))
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
		return nil, fmt.Errorf("%w on %s: %w", errNoAgent, socket, err) // it is just ending
	}
	return &found{
		StartAnswer: sshtransport.StartAnswer{Socket: socket, Version: m.Version, PID: pid},
		running:     m.Running,
	}, nil
}

// peer returns the process that listens at the other end; the kernel knows.
func peer(conn *net.UnixConn) (int, error) {
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
