package coordinator

import (
	"fmt"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
)

// A machine that was away for long comes back with what it was building. Its attempts were
// given up, and perhaps others are under way elsewhere: their numbers say who owns a build,
// and nothing that the old attempt reports is believed. But what it made is as good as any.
// A result that nobody has yet gets an attempt of its own, with the next number: whatever is
// under way is abandoned, and the new one attaches to what the agent finished, reads its log,
// and fetches it. So there is one owner at any time, and if that fails the build goes on as
// after any other attempt. A build that still runs there is taken up again if nobody tried
// anew; then its attempt is still the last.

// complete reports whether a build that an agent finished made all outputs of its derivation.
func complete(n *headstore.Node, s *agentapi.BuildStatus) bool {
	return s.State == agentapi.Succeeded && s.Derivation == n.Path && n.CheckOutputs(s.Outputs, false) == nil
}

// stillWanted reports whether a machine came back with something of an attempt that it was given
// and that was given up, and the task it was for is not done yet.
func (t *task) stillWanted(l *loop, m *machine, s *agentapi.BuildStatus) bool {
	if l.grace != nil || t == nil || t.node == nil || t.id != s.ID || t.expanding || t.resume != nil || t.available || m.problem != "" || t.checks() || !l.mayMake(t, m) {
		return false
	}
	if s.State == agentapi.Running {
		return t.run == nil && t.attempt == s.Attempt && t.waiting == 0
	}
	// What is being fetched elsewhere is done there too, and nearer.
	return complete(t.node, s) && s.Attempt <= t.attempt && t.attempt < api.MaxAttempt && (t.run == nil || t.run.machine != m && t.state != api.Fetching)
}

// useOld uses what stillWanted found.
func (t *task) useOld(l *loop, m *machine, s *agentapi.BuildStatus) {
	delete(l.delayed, t)
	l.queue.Remove(t.id)
	if s.State == agentapi.Running {
		m.log.Info("the machine is back, and still builds; that goes on", "build", t.id, "attempt", s.Attempt)
		t.resume, t.machine, t.state = m, m, api.Building
		t.takeAgain(l, "its machine is back and still builds it", nil)
		return
	}
	m.log.Info("the machine is back with a build that is still wanted", "build", t.id, "attempt", s.Attempt)
	t.abandon(l, m.Name+" came back with what it built")
	t.attempt++
	t.resume, t.machine, t.state = m, m, api.Building
	t.takeAgain(l, fmt.Sprintf("%s came back with what attempt %d made there", m.Name, s.Attempt), nil)
}

// mayAdopt reports whether what the agent has is the finished result of an older attempt, for
// whose sake this one was made.
func (r *run) mayAdopt(s *agentapi.BuildStatus) bool {
	return (r.resumed == api.Building || r.resumed == api.Fetching) && s.Attempt <= r.attempt && !r.options.Check && complete(r.node, s)
}

// checks reports whether a build of the task compares what machines make, so that each
// result counts.
func (t *task) checks() bool {
	for _, r := range t.builds {
		if r.Check > 0 {
			return true
		}
	}
	return false
}
