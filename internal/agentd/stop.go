package agentd

import (
	"context"
	"fmt"
	"syscall"

	"lighter/internal/agent"
	"lighter/internal/backoff"
)

// Stop ends the agent, and its builds. Where there is none the error matches ErrNoAgent.
func (o *Options) Stop(ctx context.Context) error {
	p, err := o.place()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("not done after %s", o.Timeout))
	defer cancel()
	unlock, err := lock(ctx, p.startLock())
	if err != nil {
		return err
	}
	defer unlock()
	there, err := probe(ctx, p.socket)
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
		used, err := agent.InUse(p.Agent())
		if err != nil || !used {
			return err
		}
		if err := backoff.Wait(ctx, pollInterval); err != nil {
			return fmt.Errorf("process %d does not end: %w", pid, err)
		}
	}
}
