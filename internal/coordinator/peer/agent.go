package peer

import (
	"context"
	"errors"
	"io"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/machinetest"
	"lighter/store"
)

// Agent is what the coordinator asks of the agent on a machine. Package agentapi has validated what
// it returns. An error that is neither *agentapi.Error nor *agentapi.Fault means that the link
// failed or the context ended.
type Agent interface {
	machinetest.Agent
	// Builds lists the agent's builds. It asks known what to expect of each, and leaves out those
	// for which that is nil.
	Builds(ctx context.Context, known func(id string) (*agentapi.Asked, error)) ([]agentapi.BuildStatus, error)
	PutBuild(ctx context.Context, asked *agentapi.Asked, req *agentapi.BuildRequest) (*agentapi.BuildStatus, error)
	Build(ctx context.Context, asked *agentapi.Asked) (*agentapi.BuildStatus, error)
	// Log copies the log from an offset on, to its end, and returns the final status.
	Log(ctx context.Context, asked *agentapi.Asked, offset int64, w io.Writer) (*agentapi.BuildStatus, error)
	DeleteBuild(ctx context.Context, id string) error
	Closure(ctx context.Context, paths []store.Path) ([]*store.Info, error)
	// Output returns the NAR of what a build with Check made, which the caller closes.
	Output(ctx context.Context, id, name string) (io.ReadCloser, error)
	CollectGarbage(ctx context.Context, req *agentapi.GCRequest) (*agentapi.GCResult, error)
	Close()
}

var _ Agent = (*agentapi.Client)(nil)

// LinkFailed reports whether an error of an Agent's method came from the way to the agent.
func LinkFailed(err error) bool {
	var answer *agentapi.Error
	var fault *agentapi.Fault
	var blame *api.Failure
	var head *headstore.Error
	var lost *headstore.LostError
	var ended Ended
	switch {
	case err == nil, errors.As(err, &answer), errors.As(err, &fault), errors.As(err, &blame), errors.As(err, &head), errors.As(err, &lost), errors.As(err, &ended):
		return false
	}
	return true
}

// UnknownBuild reports whether an error says that the agent does not know the build.
func UnknownBuild(err error) bool {
	var answer *agentapi.Error
	return errors.As(err, &answer) && answer.Code == agentapi.CodeUnknownBuild
}

// Ended is why the coordinator itself ended something that was under way. It says nothing of the
// way to a machine.
type Ended string

func (e Ended) Error() string { return string(e) }
