package submission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/submission/submissiontest"
	"lighter/internal/testkit"
	"lighter/store"
)

func requestsOf(n int) iter.Seq2[api.Request, error] {
	return func(yield func(api.Request, error) bool) {
		for i := range n {
			if !yield(api.Request{Derivation: submissiontest.Derivation(i)}, nil) {
				return
			}
		}
	}
}

func TestRequestsOfArgumentsAndLines(t *testing.T) {
	base := api.Request{Priority: 3, Tags: map[string]string{"set": "a"}, On: []string{"m1", "m2"}}
	in := strings.Join([]string{
		"", "  " + string(submissiontest.Derivation(1)) + "  ",
		`{"derivation":"` + string(submissiontest.Derivation(2)) + `","priority":9,"tags":{"x":"y"},"on":["m3"]}`,
		string(submissiontest.Derivation(1)), // again
		`{"derivation":"` + string(submissiontest.Derivation(3)) + `","timeout":60}`,
		`{"derivation":"` + string(submissiontest.Derivation(3)) + `","timeout":90}`, // another one of it
	}, "\n")
	r := &Reader{Base: base}
	var got []api.Request
	for request, err := range r.All(t.Context(), []string{string(submissiontest.Derivation(0)), "-", string(submissiontest.Derivation(4))}, strings.NewReader(in)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, request)
	}
	plain := func(i int) api.Request {
		r := base
		r.Derivation = submissiontest.Derivation(i)
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
	good := string(submissiontest.Derivation(1))
	for name, test := range map[string]struct{ in, want string }{
		"mistyped field": {`{"derivaton":"` + good + `"}`, `unknown field "derivaton"; did you mean "derivation"?`},
		"unknown field":  {`{"derivation":"` + good + `","prio":1}`, `standard input, line 3: unknown field "prio"`},
		"wrong type":     {`{"derivation":"` + good + `","priority":"high"}`, `standard input, line 3: "priority": found text, want a whole number`},
		"no derivation":  {`{"priority":1}`, `line 3: "derivation" is missing`},
		"an output":      {`{"derivation":"` + strings.TrimSuffix(good, ".drv") + `"}`, "line 3: " + strings.TrimSuffix(good, ".drv") + ": no derivation"},
		"no store path":  {`{"derivation":"/etc/x.drv"}`, "line 3: "},
		"two lines":      {`{"derivation":`, "line 3: the JSON object does not end on its line"},
		"more":           {`{"derivation":"` + good + `"} x`, "line 3: there is more after the JSON object"},
		"hook's":         {`{"derivation":"` + good + `","offload":true}`, `line 3: "offload" is for guix-daemon`},
		"no path":        {"hello", "standard input, line 3: "},
		"long":           {strings.Repeat("x", maxLine+1), "standard input, line 3: longer than 1.00 MiB"},
		"same id, other": {`{"derivation":"` + good + `","id":"6f0d1c0e-6c0a-4a52-9d0c-000000000000","priority":7}`, "line 3: the build 6f0d1c0e-6c0a-4a52-9d0c-000000000000 was asked for before, with other options, at standard input, line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			in := `{"derivation":"` + good + `","id":"6f0d1c0e-6c0a-4a52-9d0c-000000000000"}` + "\n\n" + test.in + "\n" + good + "\n"
			n := 0
			var failed error
			for _, err := range new(Reader).All(t.Context(), []string{"-"}, strings.NewReader(in)) {
				n++
				failed = err
			}
			if failed == nil || !strings.Contains(failed.Error(), test.want) || n != 2 {
				t.Errorf("%d requests, %v, want %q", n, failed, test.want)
			}
			if !errors.As(failed, new(*human.InputError)) {
				t.Errorf("it is not an InputError: %v", failed)
			}
		})
	}
}

func TestNamedSubmissionHasIDsOfItsOwn(t *testing.T) {
	ids := func(name string) (all []string) {
		r := &Reader{Submission: name}
		for request, err := range r.All(t.Context(), []string{string(submissiontest.Derivation(1)), string(submissiontest.Derivation(2)), string(submissiontest.Derivation(1))}, nil) {
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
	r := &Reader{Submission: "a"}
	in := `{"derivation":"` + string(submissiontest.Derivation(1)) + `","priority":1}` + "\n" + `{"derivation":"` + string(submissiontest.Derivation(1)) + `","priority":2}`
	var failed error
	for _, failed = range r.All(t.Context(), []string{"-"}, strings.NewReader(in)) {
	}
	if failed == nil || !strings.Contains(failed.Error(), "with other options, at standard input, line 1") {
		t.Errorf("two requests of a named submission for the same derivation: %v", failed)
	}
}

// TestNamedSubmissionIsATag has lines that say something else, and what can't be a tag.
func TestNamedSubmissionIsATag(t *testing.T) {
	many := make(map[string]string)
	for i := range api.MaxTags {
		many[fmt.Sprint(i)] = ""
	}
	drv := submissiontest.Derivation(1)
	for _, tt := range []struct {
		what, name, line string
		base             map[string]string
		want             map[string]string
	}{
		{"a path", "spring", string(drv), nil, map[string]string{"submission": "spring"}},
		{"other tags", "spring", `{"derivation":"` + string(drv) + `","tags":{"a":"1"}}`, map[string]string{"b": "2"}, map[string]string{"a": "1", "b": "2", "submission": "spring"}},
		{"the line has it", "spring", `{"derivation":"` + string(drv) + `","tags":{"submission":"mine"}}`, nil, map[string]string{"submission": "mine"}},
		{"the flags have it", "spring", string(drv), map[string]string{"submission": "mine"}, map[string]string{"submission": "mine"}},
		{"no name", "", string(drv), nil, nil},
		{"a name that is no tag's value", strings.Repeat("x", api.MaxTag), string(drv), nil, nil},
		{"no room for one more", "spring", string(drv), many, many},
	} {
		t.Run(tt.what, func(t *testing.T) {
			before := maps.Clone(tt.base)
			r := &Reader{Submission: tt.name, Base: api.Request{Tags: tt.base}}
			for request, err := range r.All(t.Context(), []string{"-"}, strings.NewReader(tt.line)) {
				if err != nil || !maps.Equal(request.Tags, tt.want) {
					t.Errorf("got %v, %v, want %v", request.Tags, err, tt.want)
				}
				if tt.name != "" && request.ID != BuildID(tt.name, drv) {
					t.Errorf("its id is %s", request.ID)
				}
			}
			if !maps.Equal(tt.base, before) {
				t.Error("the flags' tags have changed")
			}
		})
	}
}

func TestSubmitInPortions(t *testing.T) {
	testkit.CheckLeaks(t)
	const count = 25_000
	fake := &submissiontest.Coordinator{}
	next := 0
	s := &Submitter{Client: fake, Each: func(r *api.Request, a *api.Submitted) error {
		if r.Derivation != submissiontest.Derivation(next) || a.Build == nil || a.Build.Derivation != r.Derivation {
			t.Fatalf("answer %d is of %s", next, r.Derivation)
		}
		next++
		return nil
	}}
	got, err := s.Run(t.Context(), requestsOf(count))
	if want := (Count{New: count}); err != nil || got != want || next != count || len(fake.Builds) != count {
		t.Errorf("%+v, %v, %d answers, %d builds", got, err, next, len(fake.Builds))
	}
	if slices.Max(fake.Calls) > api.MaxSubmit {
		t.Errorf("submissions of %v", fake.Calls)
	}
}

// TestSlowProducerHoldsUpNothing has a producer that goes on once what it said before
// was submitted.
func TestSlowProducerHoldsUpNothing(t *testing.T) {
	testkit.CheckLeaks(t)
	answered := make(chan store.Path, 1)
	s := &Submitter{Client: &submissiontest.Coordinator{}, Each: func(r *api.Request, _ *api.Submitted) error {
		answered <- r.Derivation
		return nil
	}}
	got, err := s.Run(t.Context(), func(yield func(api.Request, error) bool) {
		for i := range 3 {
			if !yield(api.Request{Derivation: submissiontest.Derivation(i)}, nil) {
				return
			}
			if d := <-answered; d != submissiontest.Derivation(i) {
				t.Errorf("answer for %s, want %s", d, submissiontest.Derivation(i))
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
	fake := &submissiontest.Coordinator{Refuse: submissiontest.Derivation(7)}
	run := func(after int) (Count, error) {
		n := 0
		s := &Submitter{Client: fake, Each: func(*api.Request, *api.Submitted) error {
			if n++; n == after {
				return enough
			}
			return nil
		}}
		r := &Reader{Submission: "monday"}
		var lines strings.Builder
		for i := range count {
			fmt.Fprintln(&lines, submissiontest.Derivation(i))
		}
		return s.Run(t.Context(), r.All(t.Context(), []string{"-"}, &unhurried{r: strings.NewReader(lines.String())}))
	}
	if _, err := run(100); err != enough { //nolint:errorlint // just that
		t.Fatal(err)
	}
	before := len(fake.Builds)
	if before < 99 {
		t.Fatalf("%d builds", before)
	}
	got, err := run(-1)
	want := Count{New: count - 1 - before, There: before, Refused: 1}
	if err != nil || got != want || len(fake.Builds) != count-1 || got.Sum() != count {
		t.Errorf("%+v, %v, %d builds, want %+v", got, err, len(fake.Builds), want)
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
	fake := &submissiontest.Coordinator{}
	got, err := (&Submitter{Client: fake}).Run(t.Context(), func(yield func(api.Request, error) bool) {
		if yield(api.Request{Derivation: submissiontest.Derivation(1)}, nil) {
			yield(api.Request{}, bad)
		}
	})
	if got.New != 1 || len(fake.Builds) != 1 || err != bad { //nolint:errorlint // just that
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSubmitWaitsForACoordinator(t *testing.T) {
	lost := fmt.Errorf("POST /v1/builds: %w", io.ErrUnexpectedEOF)
	stopping := &api.Error{Status: 503, Code: api.CodeUnavailable, Message: "the coordinator stops"}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		fake := &submissiontest.Coordinator{
			Fail: func(call int) error {
				switch {
				case call == 1:
					return stopping
				case call > 2 && time.Since(start) < time.Minute:
					return fmt.Errorf("%w at /socket", api.ErrUnavailable)
				}
				return nil
			},
			Late: func(call int) error {
				if call == 2 {
					return lost // after it was taken
				}
				return nil
			},
		}
		waited := 0
		s := &Submitter{Client: fake, Patience: 10 * time.Minute, Waiting: func(error) { waited++ }}
		got, err := s.Run(t.Context(), requestsOf(5))
		if err != nil || got.Sum() != 5 || len(fake.Builds) != 5 || waited != 1 {
			t.Errorf("%+v, %v, %d builds, said %d times that it waits", got, err, len(fake.Builds), waited)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		fake := &submissiontest.Coordinator{Fail: func(int) error { return stopping }}
		_, err := (&Submitter{Client: fake, Patience: time.Minute}).Run(t.Context(), requestsOf(1))
		if !errors.Is(err, api.ErrUnavailable) || time.Since(start) < time.Minute || time.Since(start) > 2*time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		fake := &submissiontest.Coordinator{Fail: func(int) error { return &api.Error{Status: 507, Code: api.CodeDiskFull, Message: "full"} }}
		_, err := (&Submitter{Client: fake, Patience: time.Minute}).Run(t.Context(), requestsOf(1))
		if err == nil || len(fake.Calls) != 1 {
			t.Errorf("%v after %d tries", err, len(fake.Calls))
		}
	})
}

func TestCanceledSubmissionEnds(t *testing.T) {
	interrupted := errors.New("interrupted")
	testkit.CheckLeaks(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	read, write := io.Pipe()
	go func() {
		fmt.Fprintln(write, submissiontest.Derivation(1))
	}()
	s := &Submitter{Client: &submissiontest.Coordinator{}, Each: func(*api.Request, *api.Submitted) error {
		cancel(interrupted)
		return nil
	}}
	got, err := s.Run(ctx, new(Reader).All(ctx, []string{"-"}, read))
	if !errors.Is(err, interrupted) || got.New != 1 {
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
	r := &Reader{Base: base}
	line := `{"derivation":"` + string(submissiontest.Derivation(1)) + `","tags":{"a":"c"},"outputs":["doc"],"on":["q"],"skip":["s"],"derivationSubstituteURLs":["https://y"]}`
	for _, err := range r.All(t.Context(), []string{"-"}, strings.NewReader(line)) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(base, want); diff != "" {
		t.Errorf("a line changed what holds for all (-got +want):\n%s", diff)
	}
}
