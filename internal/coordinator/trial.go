package coordinator

import (
	"cmp"
	"context"
	"time"

	"lighter/internal/api"
	"lighter/internal/machinetest"
	"lighter/machines"
)

// trialPatience bounds how long a trial waits until its result shows in the machine's status.
const trialPatience = 2 * time.Second

// TestMachine connects to a machine now and tries, step by step, what building there needs.
func (c *Coordinator) TestMachine(ctx context.Context, name string) (*api.MachineTrial, error) {
	m, p, err := c.machine(ctx, name)
	if err != nil {
		return nil, err
	}
	ctx, stop := c.UntilStopped(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, c.limits.ConnectTimeout)
	defer cancel()
	p.Unshut() // a person who asks has perhaps mended what kept the machine away
	var entry machines.Machine
	if err := c.do(ctx, func(*loop) { entry = m.Machine }); err != nil {
		return nil, err
	}
	tester := machinetest.Tester{Advice: c.advice(), Store: c.cfg.Store, ACL: c.cfg.ACL}
	result := tester.Test(ctx, &entry, p.Client)
	looked := p.Wake()
	if result.Info != nil { // so that its status has the news
		select {
		case <-looked:
		case <-time.After(trialPatience):
		case <-ctx.Done():
		}
	}
	trial := &api.MachineTrial{Machine: name, OK: result.OK, Steps: result.Steps}
	err = c.do(ctx, func(l *loop) {
		trial.Status = m.status()
		if step, ok := m.placeStep(l); ok && (result.OK || !step.OK) {
			trial.Steps = append(trial.Steps, step)
			trial.OK = trial.OK && step.OK
		}
	})
	return trial, err
}

// placeStep says whether the machine would be given a build now, unless the other steps say why not.
func (m *machine) placeStep(l *loop) (step api.TrialStep, ok bool) {
	if m.state != api.MachineUp || m.problem != "" {
		return step, false
	}
	return machinetest.PlaceStep(&machinetest.Placing{
		Machine: m.Name, Hint: l.cfg.Advice.Hint, Paused: l.pause.Paused, Draining: m.setting.Draining, Quarantined: m.standing.Quarantined != "",
		Refused: cmp.Or(l.whyPaused(), m.unavailable(), m.refusal()), Running: m.running(), Slots: m.ParallelBuilds,
	}), true
}

// advice says what machines must fit, and what people are told if they do not.
func (c *Coordinator) advice() machinetest.Advice {
	a := c.cfg.Advice
	a.Dir, a.PublicKey = c.head.Dir(), c.cfg.PublicKey
	return a
}
