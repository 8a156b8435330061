package machinetest

import (
	"fmt"
	"strings"

	"lighter/internal/api"
	"lighter/internal/human"
)

// Placing is how a coordinator sees a machine that is up and fit, for PlaceStep.
type Placing struct {
	Machine, Hint                 string // Hint is that of its Advice
	Paused, Draining, Quarantined bool
	Refused                       string // why it gets no builds now; empty if it gets some
	Running, Slots                int
}

// PlaceStep says whether the machine would be given a build now.
func PlaceStep(p *Placing) api.TrialStep {
	step := api.TrialStep{Name: StepPlace, Outcome: api.TrialBad, Detail: p.Refused}
	again := "lighter machines resume " + p.Hint + human.ShellWord(p.Machine)
	switch {
	case p.Paused:
		step.Fix = "lighter coordinator resume " + p.Hint
	case p.Draining:
		step.Fix = again
	case p.Quarantined:
		step.Fix = "look at what failed there: lighter builds list --state failed --machine " + human.ShellWord(p.Machine) + "; then: " + again
	}
	step.Fix = strings.TrimSpace(step.Fix)
	if p.Refused != "" {
		return step
	}
	step.OK, step.Outcome = true, api.TrialGood
	step.Detail = fmt.Sprintf("it would be given a build now, %d of %d slots taken", p.Running, p.Slots)
	if p.Running >= p.Slots {
		step.Detail = fmt.Sprintf("it would be given a build as soon as one of its %d slots is free", p.Slots)
	}
	return step
}
