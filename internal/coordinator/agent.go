package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/machinetest"
	"lighter/store"
)

// agent is what the coordinator asks of the agent on a machine. What it returns is as
// agentapi's gate lets it through. An error that is neither *agentapi.Error nor
// *agentapi.Fault means that the link failed, or the context ended.
type agent interface {
	machinetest.Agent
	// Builds lists the builds of which known says what to expect.
	Builds(ctx context.Context, known func(id string) (*agentapi.Asked, error)) ([]agentapi.BuildStatus, error)
	PutBuild(ctx context.Context, asked *agentapi.Asked, req *agentapi.BuildRequest) (*agentapi.BuildStatus, error)
	Build(ctx context.Context, asked *agentapi.Asked) (*agentapi.BuildStatus, error)
	// Log copies the log from an offset on, to its end, and returns the final status.
	Log(ctx context.Context, asked *agentapi.Asked, offset int64, w io.Writer) (*agentapi.BuildStatus, error)
	DeleteBuild(ctx context.Context, id string) error
	// Closure refuses items for which expected returns an error.
	Closure(ctx context.Context, paths []store.Path) ([]*store.Info, error)
	// Output returns the NAR of what a build with Check made, which the caller closes.
	Output(ctx context.Context, id, name string) (io.ReadCloser, error)
	CollectGarbage(ctx context.Context, req *agentapi.GCRequest) (*agentapi.GCResult, error)
	Close()
}

var _ agent = (*agentapi.Client)(nil)

// inputsError says that a build's inputs are nowhere any more.
type inputsError struct {
	paths []store.Path
	why   string
}

func (e *inputsError) Error() string { return e.paths[0].String() + ": " + e.why }

func (e *inputsError) Is(target error) bool { return target == store.ErrNotValid }

// lostInputs returns the inputs that an error says are lost, or nil.
func lostInputs(err error) []store.Path {
	var e *inputsError
	if errors.As(err, &e) {
		return e.paths
	}
	return nil
}

// linkFailed reports whether an error of an agent's method came from the way to it.
func linkFailed(err error) bool {
	var answer *agentapi.Error
	var fault *agentapi.Fault
	var blame *api.Failure
	var head *headstore.Error
	switch {
	case err == nil, errors.As(err, &answer), errors.As(err, &fault), errors.As(err, &blame), errors.As(err, &head), lostInputs(err) != nil:
		return false
	case errors.Is(err, errAbandoned), errors.Is(err, errStopping), errors.Is(err, errUnwanted), errors.Is(err, errHookGone):
		return false
	}
	return true
}

// unknownBuild reports whether the agent said that it does not know the build.
func unknownBuild(err error) bool {
	var answer *agentapi.Error
	return errors.As(err, &answer) && answer.Code == agentapi.CodeUnknownBuild
}

// contain calls f, which handles what the machine says, and makes a fault of the machine of
// a panic, which ends all calls to it that are under way. It is for goroutines that share no
// more with others than what they hand over in the end: of what they had half done nothing is
// left. The loop is not contained: what it has half changed nobody could mend. There it is the
// gate of agentapi that leaves nothing to panic about.
func (m *machine) contain(what string, f func() error) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		m.log.Error("what a machine said made lighter panic, which is a bug in lighter; the machine is left alone for now",
			"while", what, "panic", p, "stack", string(debug.Stack()))
		err = &agentapi.Fault{Request: what, Problem: "what it said made lighter panic: " + agentapi.Printable(fmt.Sprint(p), api.MaxProblem)}
		m.contacts.lost(err)
	}()
	return f()
}

var (
	// errAbandoned is the cause of the end of an attempt whose result nobody wants.
	errAbandoned = errors.New("the attempt was abandoned")
	// errAgentLostBuild says that an agent does not know a build that it had.
	errAgentLostBuild = errors.New("its agent does not know the build any more: it was started anew")
)
