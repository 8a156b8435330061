package coordinator

import (
	"context"
	"errors"
	"io"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/store"
)

// agent is what the coordinator asks of the agent on a machine. An error that is no
// *agentapi.Error means that the link failed, or the context ended.
type agent interface {
	Machine(ctx context.Context) (*agentapi.Machine, error)
	Builds(ctx context.Context) ([]agentapi.BuildStatus, error)
	PutBuild(ctx context.Context, id string, req *agentapi.BuildRequest) (*agentapi.BuildStatus, error)
	Build(ctx context.Context, id string) (*agentapi.BuildStatus, error)
	// Log copies the log from an offset on, to its end, and returns the final status.
	Log(ctx context.Context, id string, offset int64, w io.Writer) (*agentapi.BuildStatus, error)
	DeleteBuild(ctx context.Context, id string) error
	Closure(ctx context.Context, paths []store.Path) ([]*store.Info, error)
	Import(ctx context.Context, archive io.Reader) ([]*store.Info, error)
	// Export returns an archive, which the caller closes.
	Export(ctx context.Context, paths []store.Path) (io.ReadCloser, error)
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
	var blame *api.Failure
	var head *headError
	switch {
	case err == nil, errors.As(err, &answer), errors.As(err, &blame), errors.As(err, &head), lostInputs(err) != nil:
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

var (
	// errAbandoned is the cause of the end of a run whose result nobody wants.
	errAbandoned = errors.New("the attempt was abandoned")
	// errAgentLostBuild says that an agent does not know a build that it had.
	errAgentLostBuild = errors.New("its agent does not know the build any more: it was started anew")
)
