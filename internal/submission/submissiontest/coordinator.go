// Package submissiontest has a coordinator for tests of what submits builds.
package submissiontest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/store"
)

// Derivation returns the path of one of many derivations.
func Derivation(i int) store.Path {
	return store.Path(fmt.Sprintf("/gnu/store/%032d-p%d.drv", i, i))
}

// Coordinator takes requests as a coordinator does: what has an id that is there gets
// the build that is there.
type Coordinator struct {
	mu     sync.Mutex
	Builds map[string]*api.Build
	Calls  []int // the sizes of submissions
	// Fail, where it is not nil, answers a submission before it is taken, Late after that.
	Fail, Late  func(call int) error
	Refuse      store.Path
	Canceled    []*api.Selection
	MachineList []api.MachineStatus
}

// SubmitAll is the method of apiclient.Client.
func (f *Coordinator) SubmitAll(ctx context.Context, requests []api.Request) ([]api.Submitted, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Calls = append(f.Calls, len(requests))
	if f.Fail != nil {
		if err := f.Fail(len(f.Calls)); err != nil {
			return nil, err
		}
	}
	if f.Builds == nil {
		f.Builds = make(map[string]*api.Build)
	}
	answers := make([]api.Submitted, len(requests))
	for i, r := range requests {
		answers[i] = f.submit(r)
	}
	if f.Late != nil {
		if err := f.Late(len(f.Calls)); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

func (f *Coordinator) submit(r api.Request) api.Submitted {
	if uuid.Validate(r.ID) != nil {
		return api.Submitted{Error: "no id", Code: api.CodeBadRequest}
	}
	if r.Derivation == f.Refuse {
		return api.Submitted{Error: "not valid", Code: api.CodeNotValid}
	}
	if b := f.Builds[r.ID]; b != nil {
		return api.Submitted{Build: b}
	}
	if r.SkipIfSubmitted {
		for _, b := range f.Builds {
			if b.Derivation == r.Derivation && b.State != api.Canceled && b.State != api.Failed {
				return api.Submitted{Build: b, Skipped: "there is a build of it"}
			}
		}
	}
	f.Builds[r.ID] = &api.Build{Request: r, State: api.Queued, Submitted: time.Now()}
	return api.Submitted{Build: f.Builds[r.ID]}
}

// Machines is the method of apiclient.Client.
func (f *Coordinator) Machines(context.Context) ([]api.MachineStatus, error) {
	if f.Fail != nil {
		if err := f.Fail(len(f.Calls)); err != nil {
			return nil, err
		}
	}
	return f.MachineList, nil
}

// CancelAll is the method of apiclient.Client, for selections by filter.
func (f *Coordinator) CancelAll(_ context.Context, s *api.Selection) (*api.Selected, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Canceled = append(f.Canceled, s)
	var done api.Selected
	for id, b := range f.Builds {
		if s.Filter.Matches(b) {
			b.State = api.Canceled
			done.IDs = append(done.IDs, id)
			done.Count++
		}
	}
	return &done, nil
}

// States counts the builds by commit and state, such as "3 queued 1".
func (f *Coordinator) States() map[string]int {
	n := make(map[string]int)
	for _, b := range f.Builds {
		n[strings.TrimLeft(b.Tags["commit"], "0")+" "+string(b.State)]++
	}
	return n
}
