package coordinator

import (
	"iter"
	"slices"

	"lighter/internal/api"
	"lighter/internal/coordinator/remote"
)

// liveBuilds are those that want a task.
type liveBuilds []*liveBuild

// requests yields what they ask for.
func (bs liveBuilds) requests() iter.Seq[*api.Request] {
	return func(yield func(*api.Request) bool) {
		for _, lb := range bs {
			if !yield(&lb.Request) {
				return
			}
		}
	}
}

// wantedHome reports whether a client asked for the outputs, so that they must come home.
func (bs liveBuilds) wantedHome() bool {
	return slices.ContainsFunc(bs, func(lb *liveBuild) bool { return lb.Parent == "" && !lb.Offload })
}

// offloaded reports whether a build hook wants the outputs.
func (bs liveBuilds) offloaded() bool {
	return slices.ContainsFunc(bs, func(lb *liveBuild) bool { return lb.Offload })
}

// onlyOffloaded reports whether nobody else does. guix-daemon protects what they need.
func (bs liveBuilds) onlyOffloaded() bool {
	return len(bs) > 0 && !slices.ContainsFunc(bs, func(lb *liveBuild) bool { return !lb.Offload })
}

// noteMeasured notes what an attempt used, which may have failed.
func (bs liveBuilds) noteMeasured(out *remote.Outcome) {
	if out != nil && out.Used != nil {
		for _, lb := range bs {
			lb.Measured = out.Used
		}
	}
}
