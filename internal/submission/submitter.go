package submission

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/human"
)

// Client is what of the coordinator's client submitting needs.
type Client interface {
	SubmitAll(ctx context.Context, requests []api.Request) ([]api.Submitted, error)
}

// Submitter brings requests to the coordinator, in portions, while more are read. Where
// the coordinator goes away it waits for another to take its place.
type Submitter struct {
	Client Client
	// Patience is how long a coordinator may be away.
	Patience time.Duration
	// Each is called with what became of each request, in order; nil is not called. After
	// an error it is still called for the rest of the portion; then the submission ends with
	// the first one.
	Each func(r *api.Request, a *api.Submitted) error
	// Waiting is called once for each time that the coordinator is away; nil is not.
	Waiting func(err error)
}

// Count says what became of the requests of a submission.
type Count struct {
	New     int // builds that were made
	There   int // builds that an earlier run of this submission made
	Skipped int // no build was made, as the request allows
	Refused int
}

// Sum is how many requests there were.
func (n Count) Sum() int { return n.New + n.There + n.Skipped + n.Refused }

// Add adds another count.
func (n *Count) Add(m Count) {
	n.New += m.New
	n.There += m.There
	n.Skipped += m.Skipped
	n.Refused += m.Refused
}

// Minus returns what there is more than in m.
func (n Count) Minus(m Count) Count {
	return Count{New: n.New - m.New, There: n.There - m.There, Skipped: n.Skipped - m.Skipped, Refused: n.Refused - m.Refused}
}

// String is such as "12 submitted, 3 were there already".
func (n Count) String() string {
	text := human.Number(n.New) + " submitted"
	for _, more := range []struct {
		n    int
		what string
	}{{n.There, "were there already"}, {n.Skipped, "not needed"}, {n.Refused, "refused"}} {
		if more.n > 0 {
			text += fmt.Sprintf(", %s %s", human.Number(more.n), more.what)
		}
	}
	return text
}

// Run submits what the sequence has. A portion is what was read while the one before it
// was under way, at most api.MaxSubmit, so that a slow producer holds up nothing. Where
// the sequence ends with an error, what came before it is submitted.
//
// The sequence is read in a goroutine of its own. When Run returns early it may hang in a
// read, which nothing can interrupt, and ends with it; it then takes no more.
func (s *Submitter) Run(ctx context.Context, requests iter.Seq2[api.Request, error]) (Count, error) {
	var total Count
	stop := make(chan struct{})
	defer close(stop)
	ahead, failed := readAhead(requests, stop)
	for {
		portion, err := takePortion(ctx, ahead)
		if err != nil {
			return total, err
		}
		if len(portion) == 0 {
			return total, <-failed
		}
		count, err := s.Submit(ctx, portion)
		total.Add(count)
		if err != nil {
			return total, err
		}
	}
}

// readAhead reads the sequence into a channel that holds one portion, until stop. The
// error with which the sequence ended, or nil, follows on the second one.
func readAhead(requests iter.Seq2[api.Request, error], stop <-chan struct{}) (<-chan api.Request, <-chan error) {
	ahead := make(chan api.Request, api.MaxSubmit)
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		defer close(ahead)
		for request, err := range requests {
			if err != nil {
				failed <- err
				return
			}
			select {
			case ahead <- request:
			case <-stop:
				return
			}
		}
	}()
	return ahead, failed
}

// takePortion waits for one request and takes all others that are there. It returns none
// at the end.
func takePortion(ctx context.Context, ahead <-chan api.Request) ([]api.Request, error) {
	var portion []api.Request
	select {
	case request, more := <-ahead:
		if !more {
			return nil, nil
		}
		portion = append(portion, request)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for len(portion) < api.MaxSubmit {
		select {
		case request, more := <-ahead:
			if !more {
				return portion, nil
			}
			portion = append(portion, request)
		default:
			return portion, nil
		}
	}
	return portion, nil
}

// Submit submits one portion, of at most api.MaxSubmit requests. The end of the context does
// not break it off once it is under way, so that it is known what there is to cancel.
func (s *Submitter) Submit(ctx context.Context, portion []api.Request) (Count, error) {
	start := time.Now()
	for i := range portion {
		// With an id, a portion that was under way when the coordinator went away can
		// be submitted again.
		if portion[i].ID == "" {
			portion[i].ID = uuid.NewString()
		}
	}
	answers, err := s.patiently(ctx, portion)
	if err != nil {
		return Count{}, err
	}
	var n Count
	var failed error
	for i := range answers {
		a := &answers[i]
		switch {
		case a.Skipped != "":
			n.Skipped++
		case a.Build == nil:
			n.Refused++
		case a.Build.Submitted.Before(start):
			n.There++
		default:
			n.New++
		}
		if s.Each != nil {
			if err := s.Each(&portion[i], a); failed == nil {
				failed = err
			}
		}
	}
	return n, failed
}

// patiently submits, and waits for a coordinator that is away.
func (s *Submitter) patiently(ctx context.Context, portion []api.Request) (answers []api.Submitted, err error) {
	err = apiclient.WhileAway(ctx, s.Patience, s.Waiting, func() error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		answers, err = s.Client.SubmitAll(context.WithoutCancel(ctx), portion)
		return err
	})
	return answers, err
}
