package delivery

import (
	"fmt"
	"strings"

	"lighter/internal/hookapi"
	"lighter/scheduler"
)

// MaxQueuedPerSlot is how many offloaded builds may wait for each slot. Each is a process on the head.
const MaxQueuedPerSlot = 64

// Place is a machine on which a build might be done.
type Place struct {
	scheduler.Verdict
	Host  any // machines of the same one share their slots
	Slots int
	Tried bool // the first try to reach it has ended
}

// Later is the answer for a build that nothing can be done for now.
func Later(q *hookapi.Question, reason string) hookapi.Answer {
	if q.WantsLocal {
		return hookapi.Answer{Verdict: hookapi.Decline, Reason: reason}
	}
	return hookapi.Answer{Verdict: hookapi.Postpone, Reason: reason}
}

// AnswerFor answers a question about a build that some machine could take, where so many builds wait already. It is
// hopeful as [Farm.Answer] is.
func AnswerFor(q *hookapi.Question, places []Place, queued int) (a hookapi.Answer, hopeful bool) {
	free, slots := false, make(map[any]int)
	var why []string
	for i := range places {
		switch p := &places[i]; {
		case p.OK(), p.Rule == scheduler.RuleSlots:
			free = free || p.OK()
			slots[p.Host] = max(slots[p.Host], p.Slots)
		case p.Rule == scheduler.RuleAvailable, p.Rule == scheduler.RuleAdmission, p.Rule == scheduler.RuleLoad, p.Rule == scheduler.RuleDisk:
			hopeful = hopeful || p.Rule == scheduler.RuleAvailable && !p.Tried
			why = append(why, p.Machine+": "+p.Actual)
		}
	}
	all := 0
	for _, n := range slots {
		all += n
	}
	switch {
	case all == 0:
		return Later(q, "no machine can take it now: "+strings.Join(why, "; ")), hopeful
	case !free && q.WantsLocal:
		return Later(q, "all slots are taken, and guix-daemon has a free one"), false
	case queued >= MaxQueuedPerSlot*all:
		return Later(q, fmt.Sprintf("%d builds are already waiting", queued)), false
	}
	return hookapi.Answer{Verdict: hookapi.Accept}, false
}
