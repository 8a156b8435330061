package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"lighter/internal/agent"
)

// stop ends the agent. That there is none is no error.
func stop(ctx context.Context, s *settings, _ []string, io stdio) error {
	p, err := s.place()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("not done after %s", s.timeout))
	defer cancel()
	unlock, err := lock(ctx, p.startLock())
	if err != nil {
		return err
	}
	defer unlock()
	there, err := probe(ctx, p.socket)
	if errors.Is(err, errNoAgent) {
		fmt.Fprintln(io.err, "lighter-agent: none runs")
		return nil
	}
	if err != nil {
		return err
	}
	return end(ctx, p, there.PID)
}

// end asks the agent to end, and waits until it has given its folder back.
func end(ctx context.Context, p place, pid int) error {
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	for {
		used, err := agent.InUse(p.agent())
		if err != nil || !used {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d does not end: %w", pid, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}
