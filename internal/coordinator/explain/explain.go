// Package explain says for people why a build waits: what of each machine speaks against it, and what is
// to come first.
package explain

import (
	"slices"
	"strings"

	"lighter/internal/api"
	"lighter/scheduler"
)

// Verdict is what people are told of a machine.
func Verdict(v *scheduler.Verdict) api.MachineVerdict {
	return api.MachineVerdict{
		Machine: v.Machine, OK: v.OK(), Rule: string(v.Rule), Wanted: v.Wanted, Actual: v.Actual,
		Finish: api.Seconds(v.Finish.Seconds()),
	}
}

// Foreign says of a machine whose entry names a system, for which it does not build, that this is so; empty if
// the entry does not name it.
type Foreign func(machine, system string) string

// Machines says of each machine whether it can take a build now, and of the others why not. could has the
// names of those that can.
func Machines(b *scheduler.Build, verdicts []scheduler.Verdict, foreign Foreign) (list []api.MachineVerdict, could []string) {
	for i := range verdicts {
		v := &verdicts[i]
		if v.Rule == scheduler.RuleSystem {
			if text := foreign(v.Machine, b.System); text != "" {
				v.Actual = text
			}
		}
		list = append(list, Verdict(v))
		if v.OK() {
			could = append(could, v.Machine)
		}
	}
	return list, could
}

// Never says why none of some machines, described by their entries, could ever take a build; empty if one could.
func Never(b *scheduler.Build, machines []scheduler.Machine, foreign Foreign) string {
	if scheduler.Possible(b, machines) {
		return ""
	}
	var closest string
	for _, v := range scheduler.Explain(b, machines, nil) {
		switch v.Rule {
		case scheduler.RuleSystem:
			if text := foreign(v.Machine, b.System); text != "" {
				closest = v.Machine + ": " + text
			}
		case scheduler.RuleSkip:
		case scheduler.RuleFeatures, scheduler.RuleMandatory, scheduler.RuleMemory, scheduler.RuleTokens:
			verdict := Verdict(&v)
			closest = verdict.String()
		default:
			return ""
		}
	}
	if closest != "" {
		return "no machine can take it: " + closest
	}
	return "no machine can take it: none builds for " + b.System
}

// Waits says why a build waits that some machines could take now. queue has the shares whose turn it is, the next
// first; share is the build's own.
func Waits(id, share string, could []string, plan scheduler.Plan, queue []api.Share) string {
	if i := slices.IndexFunc(plan.Deferrals, func(d scheduler.Deferral) bool { return d.Build.ID == id }); i >= 0 {
		return plan.Deferrals[i].Reason()
	}
	if len(queue) > 0 && queue[0].Name != share {
		return "it is the turn of " + queue[0].Name + " on " + strings.Join(could, ", ")
	}
	return "more urgent builds come first on " + strings.Join(could, ", ")
}

// Refusal says why a machine takes no builds now, not even those that it is for, if that will pass by itself.
func Refusal(m scheduler.Machine) string {
	b := scheduler.Build{ID: "any", System: m.Systems[0], Features: m.MandatoryFeatures}
	switch v := scheduler.Explain(&b, []scheduler.Machine{m}, nil)[0]; v.Rule {
	case scheduler.RuleAdmission:
		return v.Actual
	case scheduler.RuleLoad, scheduler.RuleDisk:
		return v.Actual + ", want " + v.Wanted
	}
	return ""
}
