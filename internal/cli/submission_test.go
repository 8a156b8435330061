package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/testkit"
	"lighter/store"
)

func testDerivation(i int) store.Path {
	return store.Path(fmt.Sprintf("/gnu/store/%032d-p%d.drv", i, i))
}

// submitStub takes requests as a coordinator does: what has an id that is there gets
// the build that is there.
type submitStub struct {
	mu     sync.Mutex
	builds map[string]*api.Build
	calls  []int // the sizes of submissions
	// fail, where it is not nil, answers a submission before it is taken, late after that.
	fail, late func(call int) error
	refuse     store.Path
	canceled   []*api.Selection
	machines   []api.MachineStatus
}

func (f *submitStub) SubmitAll(ctx context.Context, requests []api.Request) ([]api.Submitted, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, len(requests))
	if f.fail != nil {
		if err := f.fail(len(f.calls)); err != nil {
			return nil, err
		}
	}
	if f.builds == nil {
		f.builds = make(map[string]*api.Build)
	}
	answers := make([]api.Submitted, len(requests))
	for i, r := range requests {
		answers[i] = f.submit(r)
	}
	if f.late != nil {
		if err := f.late(len(f.calls)); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

func (f *submitStub) submit(r api.Request) api.Submitted {
	if uuid.Validate(r.ID) != nil {
		return api.Submitted{Error: "no id", Code: api.CodeBadRequest}
	}
	if r.Derivation == f.refuse {
		return api.Submitted{Error: "not valid", Code: api.CodeNotValid}
	}
	if b := f.builds[r.ID]; b != nil {
		return api.Submitted{Build: b}
	}
	if r.SkipIfSubmitted {
		for _, b := range f.builds {
			if b.Derivation == r.Derivation && b.State != api.Canceled && b.State != api.Failed {
				return api.Submitted{Build: b, Skipped: "there is a build of it"}
			}
		}
	}
	f.builds[r.ID] = &api.Build{Request: r, State: api.Queued, Submitted: time.Now()}
	return api.Submitted{Build: f.builds[r.ID]}
}

func requestsOf(n int) iter.Seq2[api.Request, error] {
	return func(yield func(api.Request, error) bool) {
		for i := range n {
			if !yield(api.Request{Derivation: testDerivation(i)}, nil) {
				return
			}
		}
	}
}

func TestRequestsOfArgumentsAndLines(t *testing.T) {
	base := api.Request{Priority: 3, Tags: map[string]string{"set": "a"}, On: []string{"m1", "m2"}}
	in := strings.Join([]string{
		"", "  " + string(testDerivation(1)) + "  ",
		`{"derivation":"` + string(testDerivation(2)) + `","priority":9,"tags":{"x":"y"},"on":["m3"]}`,
		string(testDerivation(1)), // again
		`{"derivation":"` + string(testDerivation(3)) + `","timeout":60}`,
		`{"derivation":"` + string(testDerivation(3)) + `","timeout":90}`, // another one of it
	}, "\n")
	r := &requestReader{base: base}
	var got []api.Request
	for request, err := range r.all(t.Context(), []string{string(testDerivation(0)), "-", string(testDerivation(4))}, strings.NewReader(in)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, request)
	}
	plain := func(i int) api.Request {
		r := base
		r.Derivation = testDerivation(i)
		return r
	}
	want := []api.Request{plain(0), plain(1), plain(2), plain(3), plain(3), plain(4)}
	want[2].Priority, want[2].Tags, want[2].On = 9, map[string]string{"set": "a", "x": "y"}, []string{"m3"}
	want[3].Timeout, want[4].Timeout = 60, 90
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("requests (-got +want):\n%s", diff)
	}
	if r.Repeated != 1 {
		t.Errorf("%d repeated, want 1", r.Repeated)
	}
}

func TestBadRequestLines(t *testing.T) {
	good := string(testDerivation(1))
	for name, test := range map[string]struct{ in, want string }{
		"unknown field":  {`{"derivation":"` + good + `","prio":1}`, `standard input, line 3: unknown field "prio"`},
		"wrong type":     {`{"derivation":"` + good + `","priority":"high"}`, "standard input, line 3: cannot unmarshal string into Go struct field Request.priority"},
		"no derivation":  {`{"priority":1}`, `line 3: "derivation" is missing`},
		"an output":      {`{"derivation":"` + strings.TrimSuffix(good, ".drv") + `"}`, "line 3: " + strings.TrimSuffix(good, ".drv") + ": no derivation"},
		"no store path":  {`{"derivation":"/etc/x.drv"}`, "line 3: "},
		"two lines":      {`{"derivation":`, "line 3: the JSON object does not end on its line"},
		"more":           {`{"derivation":"` + good + `"} x`, "line 3: there is more after the JSON object"},
		"hook's":         {`{"derivation":"` + good + `","offload":true}`, `line 3: "offload" is for guix-daemon`},
		"no path":        {"hello", "standard input, line 3: "},
		"long":           {strings.Repeat("x", maxRequestLine+1), "standard input, line 3: longer than 1.00 MiB"},
		"same id, other": {`{"derivation":"` + good + `","id":"6f0d1c0e-6c0a-4a52-9d0c-000000000000","priority":7}`, "line 3: the build 6f0d1c0e-6c0a-4a52-9d0c-000000000000 was asked for before, with other options, at standard input, line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			in := `{"derivation":"` + good + `","id":"6f0d1c0e-6c0a-4a52-9d0c-000000000000"}` + "\n\n" + test.in + "\n" + good + "\n"
			n := 0
			var failed error
			for _, err := range new(requestReader).all(t.Context(), []string{"-"}, strings.NewReader(in)) {
				n++
				failed = err
			}
			if failed == nil || !strings.Contains(failed.Error(), test.want) || n != 2 {
				t.Errorf("%d requests, %v, want %q", n, failed, test.want)
			}
			if code, _ := exitCode(failed); code != exitBadInput {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestNamedSubmissionHasIDsOfItsOwn(t *testing.T) {
	ids := func(name string) (all []string) {
		r := &requestReader{submission: name}
		for request, err := range r.all(t.Context(), []string{string(testDerivation(1)), string(testDerivation(2)), string(testDerivation(1))}, nil) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, request.ID)
		}
		return all
	}
	a, b := ids("a"), ids("b")
	if diff := cmp.Diff(a, ids("a")); diff != "" {
		t.Errorf("ids differ:\n%s", diff)
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	if len(slices.Compact(all)) != 4 {
		t.Errorf("ids %v and %v are not four", a, b)
	}
	r := &requestReader{submission: "a"}
	in := `{"derivation":"` + string(testDerivation(1)) + `","priority":1}` + "\n" + `{"derivation":"` + string(testDerivation(1)) + `","priority":2}`
	var failed error
	for _, failed = range r.all(t.Context(), []string{"-"}, strings.NewReader(in)) {
	}
	if failed == nil || !strings.Contains(failed.Error(), "with other options, at standard input, line 1") {
		t.Errorf("two requests of a named submission for the same derivation: %v", failed)
	}
}

func TestSubmitInPortions(t *testing.T) {
	testkit.CheckLeaks(t)
	const count = 25_000
	fake := &submitStub{}
	next := 0
	s := &submitter{client: fake, each: func(r *api.Request, a *api.Submitted) error {
		if r.Derivation != testDerivation(next) || a.Build == nil || a.Build.Derivation != r.Derivation {
			t.Fatalf("answer %d is of %s", next, r.Derivation)
		}
		next++
		return nil
	}}
	got, err := s.run(t.Context(), requestsOf(count))
	if want := (submissionCount{New: count}); err != nil || got != want || next != count || len(fake.builds) != count {
		t.Errorf("%+v, %v, %d answers, %d builds", got, err, next, len(fake.builds))
	}
	if slices.Max(fake.calls) > api.MaxSubmit {
		t.Errorf("submissions of %v", fake.calls)
	}
}

// TestSlowProducerHoldsUpNothing has a producer that goes on once what it said before
// was submitted.
func TestSlowProducerHoldsUpNothing(t *testing.T) {
	testkit.CheckLeaks(t)
	answered := make(chan store.Path, 1)
	s := &submitter{client: &submitStub{}, each: func(r *api.Request, _ *api.Submitted) error {
		answered <- r.Derivation
		return nil
	}}
	got, err := s.run(t.Context(), func(yield func(api.Request, error) bool) {
		for i := range 3 {
			if !yield(api.Request{Derivation: testDerivation(i)}, nil) {
				return
			}
			if d := <-answered; d != testDerivation(i) {
				t.Errorf("answer for %s, want %s", d, testDerivation(i))
			}
		}
	})
	if got.New != 3 || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSubmitAgainAfterAnInterruption(t *testing.T) {
	testkit.CheckLeaks(t)
	const count = 1000
	enough := errors.New("enough")
	fake := &submitStub{refuse: testDerivation(7)}
	run := func(after int) (submissionCount, error) {
		n := 0
		s := &submitter{client: fake, each: func(*api.Request, *api.Submitted) error {
			if n++; n == after {
				return enough
			}
			return nil
		}}
		r := &requestReader{submission: "monday"}
		var lines strings.Builder
		for i := range count {
			fmt.Fprintln(&lines, testDerivation(i))
		}
		return s.run(t.Context(), r.all(t.Context(), []string{"-"}, &unhurried{r: strings.NewReader(lines.String())}))
	}
	if _, err := run(100); err != enough { //nolint:errorlint // just that
		t.Fatal(err)
	}
	before := len(fake.builds)
	if before < 99 {
		t.Fatalf("%d builds", before)
	}
	got, err := run(-1)
	want := submissionCount{New: count - 1 - before, There: before, Refused: 1}
	if err != nil || got != want || len(fake.builds) != count-1 || got.Sum() != count {
		t.Errorf("%+v, %v, %d builds, want %+v", got, err, len(fake.builds), want)
	}
	text := fmt.Sprintf("%d submitted, %d were there already, 1 refused", want.New, want.There)
	if got.String() != text {
		t.Errorf("%q, want %q", got, text)
	}
}

// unhurried gives a little at a time.
type unhurried struct{ r io.Reader }

func (u *unhurried) Read(p []byte) (int, error) { return u.r.Read(p[:min(len(p), 100)]) }

func TestWhatCameBeforeAnErrorIsSubmitted(t *testing.T) {
	testkit.CheckLeaks(t)
	bad := errors.New("bad line")
	fake := &submitStub{}
	got, err := (&submitter{client: fake}).run(t.Context(), func(yield func(api.Request, error) bool) {
		if yield(api.Request{Derivation: testDerivation(1)}, nil) {
			yield(api.Request{}, bad)
		}
	})
	if got.New != 1 || len(fake.builds) != 1 || err != bad { //nolint:errorlint // just that
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSubmitWaitsForACoordinator(t *testing.T) {
	lost := fmt.Errorf("POST /v1/builds: %w", io.ErrUnexpectedEOF)
	stopping := &api.Error{Status: 503, Code: api.CodeUnavailable, Message: "the coordinator stops"}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		fake := &submitStub{
			fail: func(call int) error {
				switch {
				case call == 1:
					return stopping
				case call > 2 && time.Since(start) < time.Minute:
					return fmt.Errorf("%w at /socket", api.ErrUnavailable)
				}
				return nil
			},
			late: func(call int) error {
				if call == 2 {
					return lost // after it was taken
				}
				return nil
			},
		}
		waited := 0
		s := &submitter{client: fake, patience: 10 * time.Minute, waiting: func(error) { waited++ }}
		got, err := s.run(t.Context(), requestsOf(5))
		if err != nil || got.Sum() != 5 || len(fake.builds) != 5 || waited != 1 {
			t.Errorf("%+v, %v, %d builds, said %d times that it waits", got, err, len(fake.builds), waited)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		fake := &submitStub{fail: func(int) error { return stopping }}
		_, err := (&submitter{client: fake, patience: time.Minute}).run(t.Context(), requestsOf(1))
		if !errors.Is(err, api.ErrUnavailable) || time.Since(start) < time.Minute || time.Since(start) > 2*time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		fake := &submitStub{fail: func(int) error { return &api.Error{Status: 507, Code: api.CodeDiskFull, Message: "full"} }}
		_, err := (&submitter{client: fake, patience: time.Minute}).run(t.Context(), requestsOf(1))
		if err == nil || len(fake.calls) != 1 {
			t.Errorf("%v after %d tries", err, len(fake.calls))
		}
	})
}

func TestCanceledSubmissionEnds(t *testing.T) {
	testkit.CheckLeaks(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	read, write := io.Pipe()
	go func() {
		fmt.Fprintln(write, testDerivation(1))
	}()
	s := &submitter{client: &submitStub{}, each: func(*api.Request, *api.Submitted) error {
		cancel(errInterrupted)
		return nil
	}}
	got, err := s.run(ctx, new(requestReader).all(ctx, []string{"-"}, read))
	if !errors.Is(err, errInterrupted) || got.New != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	write.Close()
}

func TestRequestsShareNothing(t *testing.T) {
	base := api.Request{
		Tags: map[string]string{"a": "b"}, Outputs: []string{"out"}, On: []string{"x", "y"}, Skip: []string{"z"},
		DerivationSubstituteURLs: []string{"https://x"},
	}
	want := base
	want.Tags, want.Outputs, want.On, want.Skip = maps.Clone(base.Tags), slices.Clone(base.Outputs), slices.Clone(base.On), slices.Clone(base.Skip)
	want.DerivationSubstituteURLs = slices.Clone(base.DerivationSubstituteURLs)
	r := &requestReader{base: base}
	line := `{"derivation":"` + string(testDerivation(1)) + `","tags":{"a":"c"},"outputs":["doc"],"on":["q"],"skip":["q"],"derivationSubstituteURLs":["https://y"]}`
	for _, err := range r.all(t.Context(), []string{"-"}, strings.NewReader(line)) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(base, want); diff != "" {
		t.Errorf("a line changed what holds for all (-got +want):\n%s", diff)
	}
}
