package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/store"
)

// submissionSpace is the space of ids that follow from what is submitted.
var submissionSpace = uuid.MustParse("6f0d1c0e-6c0a-4a52-9d0c-9d2f4f6f8f57")

// submissionID is the id of the build of a derivation in the submission of that name. It
// is always the same, so that whoever submits again gets the builds that are there.
func submissionID(name string, drv store.Path) string {
	return uuid.NewSHA1(submissionSpace, []byte(name+"\x00"+string(drv))).String()
}

// requestReader makes requests of what a person gives: arguments, or lines of a stream.
// A line is the path of a derivation, or a JSON object with the fields of api.Request.
type requestReader struct {
	// base has what holds for all requests. A line's own fields go before it; its tags
	// are added to those of base.
	base api.Request
	// submission gives each request without an id the one of submissionID.
	submission string
	// derivation finds the path that an argument, or a line that is no JSON, means. Nil
	// takes nothing but store paths.
	derivation func(ctx context.Context, arg string) (store.Path, error)

	seen map[string]seenRequest // by what tells requests apart
	hash maphash.Seed
	// Repeated counts requests that were left out because they were there before.
	Repeated int
}

type seenRequest struct {
	where string
	sum   uint64
}

// maxRequestLine bounds a line of a stream of requests, in bytes.
const maxRequestLine = 1 << 20

// all returns the requests of arguments, in order. A "-" among them stands for the lines
// of in. Nothing is read before it is asked for. The sequence ends with the first error,
// which says where it is.
func (r *requestReader) all(ctx context.Context, args []string, in io.Reader) iter.Seq2[api.Request, error] {
	return func(yield func(api.Request, error) bool) {
		for _, arg := range args {
			if arg == "-" {
				if !r.lines(ctx, in, yield) {
					return
				}
				continue
			}
			if !r.one(ctx, arg, arg, yield) {
				return
			}
		}
	}
}

func (r *requestReader) lines(ctx context.Context, in io.Reader, yield func(api.Request, error) bool) bool {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxRequestLine)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line != "" && !r.one(ctx, fmt.Sprintf("standard input, line %d", n), line, yield) {
			return false
		}
	}
	err := lines.Err()
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		err = badInput(fmt.Errorf("standard input, line %d: longer than %s", n+1, quantity.Bytes(maxRequestLine)))
	case err != nil:
		err = fmt.Errorf("read standard input: %w", err)
	default:
		return true
	}
	yield(api.Request{}, err)
	return false
}

// one yields the request of an argument or a line, unless it was there before.
func (r *requestReader) one(ctx context.Context, where, text string, yield func(api.Request, error) bool) bool {
	request, err := r.parse(ctx, where, text)
	if err == nil {
		var repeated bool
		if repeated, err = r.repeated(where, &request); repeated {
			r.Repeated++
			return true
		}
	}
	if err != nil {
		yield(api.Request{}, err)
		return false
	}
	return yield(request, nil)
}

func (r *requestReader) parse(ctx context.Context, where, text string) (api.Request, error) {
	request := ownRequest(r.base)
	if strings.HasPrefix(text, "{") {
		if err := parseRequest(text, &request); err != nil {
			return request, badInput(fmt.Errorf("%s: %w", where, err))
		}
	} else {
		find := r.derivation
		if find == nil {
			find = storePath
		}
		path, err := find(ctx, text)
		if err != nil {
			return request, at(where, text, err)
		}
		request.Derivation = path
	}
	if request.ID == "" && r.submission != "" {
		request.ID = submissionID(r.submission, request.Derivation)
	}
	return request, nil
}

// ownRequest returns a copy that shares nothing with r.
func ownRequest(r api.Request) api.Request {
	r.Tags = maps.Clone(r.Tags)
	r.Outputs, r.On, r.Skip = slices.Clone(r.Outputs), slices.Clone(r.On), slices.Clone(r.Skip)
	r.DerivationSubstituteURLs = slices.Clone(r.DerivationSubstituteURLs)
	return r
}

// parseRequest reads a JSON object over what request has.
func parseRequest(text string, request *api.Request) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	switch err := d.Decode(request); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON object does not end on its line")
	case err != nil:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	case d.More():
		return errors.New("there is more after the JSON object")
	case request.Offload:
		return errors.New(`"offload" is for guix-daemon's build hook alone`)
	case request.Derivation == "":
		return errors.New(`"derivation" is missing`)
	}
	return checkDerivation(request.Derivation)
}

func storePath(_ context.Context, arg string) (store.Path, error) {
	path, err := store.ParsePath(arg)
	if err == nil {
		err = checkDerivation(path)
	}
	return path, badInput(err)
}

func checkDerivation(p store.Path) error {
	if _, err := store.ParsePath(string(p)); err != nil {
		return err
	}
	if !p.IsDerivation() {
		return fmt.Errorf("%s: no derivation; its name does not end in .drv", p)
	}
	return nil
}

// at says where an error is, unless that is the text itself, which the error has.
func at(where, text string, err error) error {
	if where == text {
		return err
	}
	code, _ := exitCode(err)
	return &exitError{code, fmt.Errorf("%s: %w", where, err)}
}

// repeated reports whether the same request was there before. In a submission with a
// name, or with an id, another request for the same build is an error.
func (r *requestReader) repeated(where string, request *api.Request) (bool, error) {
	if r.seen == nil {
		r.seen, r.hash = make(map[string]seenRequest), maphash.MakeSeed()
	}
	text, err := json.Marshal(request)
	if err != nil {
		return false, fmt.Errorf("%s: %w", where, err)
	}
	sum := maphash.Bytes(r.hash, text)
	key := request.ID
	if key == "" {
		key = string(request.Derivation)
	}
	old, there := r.seen[key]
	switch {
	case there && old.sum == sum:
		return true, nil
	case there && request.ID != "":
		return false, badInput(fmt.Errorf("%s: the build %s was asked for before, with other options, at %s", where, request.ID, old.where))
	}
	r.seen[key] = seenRequest{where, sum}
	return false, nil
}

// submitClient is what of the coordinator's client submitting needs.
type submitClient interface {
	SubmitAll(ctx context.Context, requests []api.Request) ([]api.Submitted, error)
}

// submitter brings requests to the coordinator, in portions, while more are read. Where
// the coordinator goes away it waits for another to take its place.
type submitter struct {
	client submitClient
	// patience is how long a coordinator may be away.
	patience time.Duration
	// each is called with what became of each request, in order; nil is not called. An
	// error ends the submission.
	each func(r *api.Request, a *api.Submitted) error
	// waiting is called once for each time that the coordinator is away; nil is not.
	waiting func(err error)
}

// submissionCount says what became of the requests of a submission.
type submissionCount struct {
	New     int // builds that were made
	There   int // builds that an earlier run of this submission made
	Skipped int // no build was made, as the request allows
	Refused int
}

// Sum is how many requests there were.
func (n submissionCount) Sum() int { return n.New + n.There + n.Skipped + n.Refused }

func (n *submissionCount) add(m submissionCount) {
	n.New += m.New
	n.There += m.There
	n.Skipped += m.Skipped
	n.Refused += m.Refused
}

func (n submissionCount) minus(m submissionCount) submissionCount {
	return submissionCount{New: n.New - m.New, There: n.There - m.There, Skipped: n.Skipped - m.Skipped, Refused: n.Refused - m.Refused}
}

// String is such as "12 submitted, 3 were there already".
func (n submissionCount) String() string {
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

// run submits what the sequence has. A portion is what was read while the one before it
// was under way, at most api.MaxSubmit, so that a slow producer holds up nothing. Where
// the sequence ends with an error, what came before it is submitted.
//
// The sequence is read in a goroutine of its own. When run returns early it may hang in a
// read, which nothing can interrupt, and ends with it; it then takes no more.
func (s *submitter) run(ctx context.Context, requests iter.Seq2[api.Request, error]) (submissionCount, error) {
	var total submissionCount
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
		count, err := s.submit(ctx, portion)
		total.add(count)
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

// submit submits one portion.
func (s *submitter) submit(ctx context.Context, portion []api.Request) (submissionCount, error) {
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
		return submissionCount{}, err
	}
	var n submissionCount
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
		if s.each != nil {
			if err := s.each(&portion[i], a); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// patiently submits, and waits for a coordinator that is away.
func (s *submitter) patiently(ctx context.Context, portion []api.Request) (answers []api.Submitted, err error) {
	err = apiclient.WhileAway(ctx, s.patience, s.waiting, func() error {
		answers, err = s.client.SubmitAll(ctx, portion)
		return err
	})
	if err == nil && len(answers) != len(portion) {
		err = fmt.Errorf("submit: got %d answers to %d requests", len(answers), len(portion))
	}
	return answers, err
}
