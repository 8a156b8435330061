package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lighter/internal/api"
	"lighter/internal/history"
	"lighter/scheduler/estimate"
	"lighter/store"
)

// TestPoisonIsRefused tries to write what a later start could not use, or would not get
// rid of. Each is refused by itself: what comes with it is written, and all is there after
// a start.
func TestPoisonIsRefused(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, "ledger", Options{FS: mem})
	apply(t, l, Change{Build: build("there", api.Queued)})
	long := func(n int) string { return strings.Repeat("x", n) }
	with := func(change func(b *api.Build)) Change {
		b := build("there", api.Building)
		change(b)
		return Change{Build: b}
	}
	event := func(e api.Event) Change { return Change{Event: &e} }
	tags := make(map[string]string)
	for i := range api.MaxTags + 1 {
		tags[fmt.Sprint(i)] = ""
	}
	year := func(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }
	at := func(y int) *time.Time { v := year(y); return &v }
	nan, inf := math.NaN(), math.Inf(1)
	tooHigh, highest := int64(api.MaxAttempt)+1, int64(9999999999)
	if math.MaxInt == math.MaxInt32 {
		highest = tooHigh // negative as an int
	}
	poison := map[string]Change{
		"attempt too high":         with(func(b *api.Build) { b.Attempt = int(tooHigh) }),
		"attempt of 9999999999":    with(func(b *api.Build) { b.Attempt = int(highest) }),
		"attempt below 0":          with(func(b *api.Build) { b.Attempt = -1 }),
		"retried below 0":          with(func(b *api.Build) { b.Retried = -1 }),
		"checks":                   with(func(b *api.Build) { b.Check = math.MaxInt }),
		"retries":                  with(func(b *api.Build) { b.Retries = math.MaxInt }),
		"priority":                 with(func(b *api.Build) { b.Priority = math.MinInt }),
		"state":                    with(func(b *api.Build) { b.State = "odd" }),
		"id with a slash":          {Build: build("../../etc/passwd", api.Queued)},
		"id with a zero":           {Build: build("a\x00b", api.Queued)},
		"id with a newline":        {Build: build("a\nb", api.Queued)},
		"id that is not UTF-8":     {Build: build("a\xff", api.Queued)},
		"long id":                  {Build: build(long(api.MaxID+1), api.Queued)},
		"shares":                   with(func(b *api.Build) { b.Shares = "../x" }),
		"parent":                   with(func(b *api.Build) { b.Parent = long(1 << 20) }),
		"system that is not UTF-8": with(func(b *api.Build) { b.System = "\xff" }),
		"system with a zero":       with(func(b *api.Build) { b.System = "a\x00b" }),
		"long system":              with(func(b *api.Build) { b.System = long(api.MaxName + 1) }),
		"long machine":             with(func(b *api.Build) { b.Machine = long(api.MaxName + 1) }),
		"machine no UTF-8":         with(func(b *api.Build) { b.Machine = "\xc3" }),
		"keeps":                    with(func(b *api.Build) { b.OutputsOn = "\xc3" }),
		"tag no UTF-8":             with(func(b *api.Build) { b.Tags = map[string]string{"a": "\xff"} }),
		"name of a tag no UTF-8":   with(func(b *api.Build) { b.Tags = map[string]string{"\xff": "a"} }),
		"long tag":                 with(func(b *api.Build) { b.Tags = map[string]string{"a": long(api.MaxTag)} }),
		"many tags":                with(func(b *api.Build) { b.Tags = tags }),
		"many features":            with(func(b *api.Build) { b.Features = make([]string, api.MaxFeatures+1) }),
		"many outputs":             with(func(b *api.Build) { b.Outputs = make([]string, api.MaxOutputs+1) }),
		"derivation":               with(func(b *api.Build) { b.Derivation = "hello" }),
		"derivation with a zero":   with(func(b *api.Build) { b.Derivation += "\x00.drv" }),
		"long derivation": with(func(b *api.Build) {
			b.Derivation = store.Path(strings.Replace(string(b.Derivation), "hello", long(2000), 1))
		}),
		"output path":         with(func(b *api.Build) { b.OutputPaths = map[string]store.Path{"out": "/gnu/store/../../etc"} }),
		"name of an output":   with(func(b *api.Build) { b.OutputPaths = map[string]store.Path{"\xff": ""} }),
		"long reason":         with(func(b *api.Build) { b.Reason = long(api.MaxReason + 1) }),
		"long message":        with(func(b *api.Build) { b.Failure = &api.Failure{Message: long(api.MaxMessage + 1)} }),
		"long kind":           with(func(b *api.Build) { b.Failure = &api.Failure{Kind: long(api.MaxName + 1)} }),
		"long folder":         with(func(b *api.Build) { b.Failure = &api.Failure{KeptIn: long(api.MaxPath + 1)} }),
		"input":               with(func(b *api.Build) { b.Failure = &api.Failure{Input: "x"} }),
		"build time NaN":      with(func(b *api.Build) { b.BuildTime = api.Seconds(nan) }),
		"timeout Inf":         with(func(b *api.Build) { b.Timeout = api.Seconds(inf) }),
		"started in 10000":    with(func(b *api.Build) { b.Started = at(10000) }),
		"stopped before 0":    with(func(b *api.Build) { b.Stopped = at(-1) }),
		"submitted in 10000":  with(func(b *api.Build) { b.Submitted = year(10000) }),
		"large":               with(func(b *api.Build) { b.Hardware = &api.Hardware{CPU: long(api.MaxRecord)} }),
		"many results":        with(func(b *api.Build) { b.Results = make([]api.CheckResult, api.MaxChecks+2) }),
		"attempt of a result": with(func(b *api.Build) { b.Results = []api.CheckResult{{LogAttempt: -1}} }),
		"log of a result":     with(func(b *api.Build) { b.Results = []api.CheckResult{{LogID: "../x"}} }),
		"large when new": {Create: true, Build: func() *api.Build {
			b := build("new", api.Queued)
			b.Hardware = &api.Hardware{CPU: long(api.MaxRequest)}
			return b
		}()},
		"event's attempt":  event(api.Event{Build: "there", Attempt: int(tooHigh)}),
		"event's reason":   event(api.Event{Build: "there", Reason: long(api.MaxReason + 1)}),
		"event's kind":     event(api.Event{Kind: api.EventKind(long(api.MaxName + 1))}),
		"event's machine":  event(api.Event{Machine: "\xff"}),
		"event's build":    event(api.Event{Build: "a/b"}),
		"event's state":    event(api.Event{Build: "there", State: "odd"}),
		"event's failure":  event(api.Event{Failure: &api.Failure{Message: long(api.MaxMessage + 1)}}),
		"event of nothing": event(api.Event{Build: "nothing"}),
		"speed NaN":        {Samples: samplesFor("hello", "x", estimate.Sample{Speed: nan})},
		"seconds below 0":  {Samples: samplesFor("hello", "x", estimate.Sample{Duration: -1})},
		"centuries":        {Samples: samplesFor("hello", "x", estimate.Sample{Duration: 5.4e9 * time.Second})},
		"speed":            {Samples: samplesFor("hello", "x", estimate.Sample{Speed: inf})},
		"sample in 10000":  {Samples: samplesFor("hello", "x", estimate.Sample{Time: year(10000)})},
		"name with a zero": {Samples: samplesFor("a\x00b", "x", estimate.Sample{})},
		"measured CPU":     {Build: measured(store.Measured{CPU: nan})},
		"measured memory":  {Build: measured(store.Measured{PeakMemory: -1})},
		"unmeasured":       {Build: measured(store.Measured{Unmeasured: long(api.MaxProblem + 1)})},
		"memory":           {Samples: samplesFor("hello", "x", estimate.Sample{Memory: -1})},
		"output":           {Samples: samplesFor("hello", "x", estimate.Sample{Output: math.MaxInt64})},
		"version":          {Samples: samplesFor("hello", "x", estimate.Sample{Version: long(api.MaxName + 1)})},
		"17 samples":       {Samples: samplesFor("hello", "x", make([]estimate.Sample, 17)...)},
		"kind":             {Samples: &Samples{Key: estimate.Key{Kind: "odd", Name: "hello", System: "x"}}},
		"build system":     {Samples: &Samples{Key: estimate.Key{Kind: estimate.Package, Name: "hello", System: "x", BuildSystem: "odd"}}},
		"bandwidth":        {Machine: &Machine{Name: "m", Bandwidth: inf}},
		"speed of machine": {Machine: &Machine{Name: "m", SpeedLog: nan}},
		"name of machine":  {Machine: &Machine{Name: "m\xff"}},
		"long key":         {Machine: &Machine{Name: "m", PublicKey: long(api.MaxPath + 1)}},
		"no JSON":          {Setting: &Setting{"s", make(chan int)}},
		"large setting":    {Setting: &Setting{"s", long(api.MaxSetting)}},
		"name of setting":  {Setting: &Setting{"s\xff", 1}},
		"long setting":     {Setting: &Setting{long(api.MaxPath + 1), 1}},
		"hour":             {Hour: &history.Hour{Number: 1, Parts: []int{12}, Covered: []int64{300}}},
		"hour of nothing":  {Hour: &history.Hour{}},
		"raw JSON":         {Setting: &Setting{"s", json.RawMessage("{")}},
	}
	names := make([]string, 0, len(poison))
	var changes []Change
	for name, change := range poison {
		names = append(names, name)
		changes = append(changes, change, Change{Build: build(fmt.Sprint("good", len(names)), api.Queued), Create: true})
		if _, err := l.Apply(t.Context(), []Change{{Build: build("beside", api.Queued)}, change}, true); !errors.As(err, new(*RefusedError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	done, refused, err := l.ApplyEach(t.Context(), changes, true)
	if err != nil || done != len(changes) || len(refused) != len(names) {
		t.Errorf("%d done, %d refused of %d, %v", done, len(refused), len(names), err)
	}
	for i, r := range refused {
		if r.Index != 2*i {
			t.Errorf("%s was not refused", names[i])
			break
		}
	}
	check(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, "ledger", Options{FS: mem})
	check(t, l)
	if got := list(t, l, Filter{}); len(got) != 1+len(names) {
		t.Errorf("%d builds, want %d", len(got), 1+len(names))
	}
}

// A call that is too large is refused before Pebble sees it, and many large changes do not
// make a large batch.
func TestLargeChanges(t *testing.T) {
	l := open(t, "ledger", Options{FS: vfs.NewMem()})
	large := func(i int) Change {
		b := build(fmt.Sprint("b", i), api.Queued)
		b.Hardware = &api.Hardware{CPU: strings.Repeat("x", api.MaxRecord-2000)}
		return Change{Build: b}
	}
	var changes []Change
	for i := range 300 {
		changes = append(changes, large(i))
	}
	if _, err := l.Apply(t.Context(), changes, true); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if n := len(list(t, l, Filter{})); n != 0 {
		t.Errorf("%d builds were made", n)
	}
	var requests []*request
	for i := range changes[:100] {
		p, err := prepare(&changes[i])
		if err != nil {
			t.Fatal(err)
		}
		requests = append(requests, &request{changes: []*prepared{p}, size: p.size()})
	}
	waiting := &writer{queue: requests}
	for taken := 0; taken < len(requests); {
		group := waiting.take()
		size := 0
		for _, r := range group {
			size += r.size
		}
		if len(group) == 0 || size > maxGroupSize {
			t.Fatalf("%d requests with %d bytes", len(group), size)
		}
		taken += len(group)
	}
	if done, refused, err := l.ApplyEach(t.Context(), changes[:100], true); done != 100 || refused != nil || err != nil {
		t.Errorf("%d done, %v refused, %v", done, refused, err)
	}
	if n := len(list(t, l, Filter{})); n != 100 {
		t.Errorf("%d builds", n)
	}
	check(t, l)
}

// TestUnusableRecords has records that an older version could have written, or worse, in a
// ledger: it opens, tells of each, works with the rest, and is clean when they are dropped.
func TestUnusableRecords(t *testing.T) {
	withRecord := func(change func(b *api.Build)) []byte {
		b := build("bad", api.Queued)
		change(b)
		record, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return record
	}
	at := []byte("\x00\x00\x00\x00\x00\x00\x00\x00")
	for name, tt := range map[string]struct {
		key, value []byte
		want       string // of Inspect
	}{
		"no JSON":             {keyBuild(2), []byte("{"), "build number 2: unexpected end of JSON"},
		"empty record":        {keyBuild(2), nil, "build number 2"},
		"null":                {keyBuild(2), []byte("null"), "build number 2: id"},
		"attempt":             {keyBuild(2), withRecord(func(b *api.Build) { b.Attempt = math.MaxInt }), "build bad (number 2): attempt " + fmt.Sprint(math.MaxInt)},
		"state":               {keyBuild(2), withRecord(func(b *api.Build) { b.State = "lost" }), `build bad (number 2): unknown state "lost"`},
		"year":                {keyBuild(2), bytes.Replace(withRecord(func(*api.Build) {}), []byte("2026-"), []byte("12026-"), 1), "build bad (number 2): parsing time"},
		"path":                {keyBuild(2), bytes.Replace(withRecord(func(*api.Build) {}), []byte("/gnu/store/"), []byte("/../store/"), 1), "build"},
		"entry of a build":    {keyID("bad"), []byte("x"), "build bad: corrupt entry"},
		"state of an entry":   {keyID("bad"), head{number: 2, state: 'x'}.encode(), "build bad: corrupt entry"},
		"event":               {keyEvent(2), append(at[:8:8], "{"...), "event 2: unexpected end of JSON"},
		"short event":         {keyEvent(2), []byte("x"), "event 2: corrupt entry"},
		"last event":          {keyEvent(4), append(at[:8:8], `{"attempt":1e99}`...), "event 4"},
		"event's state":       {keyEvent(2), append(at[:8:8], `{"build":"bad","state":"odd"}`...), `event 2: unknown state "odd"`},
		"key of an event":     {[]byte("exyz"), nil, "corrupt entry"},
		"key of a build":      {[]byte("bxyz"), nil, "corrupt entry"},
		"high key of a build": {keyBuild(math.MaxUint64), []byte("{}"), "is not there"},
		"key of a history":    {[]byte("hxyz"), nil, "corrupt entry"},
		"history of none":     {keyHistory(2, 99), nil, "or others"},
		"key of an index":     {[]byte("ixyz"), nil, "corrupt entry"},
		"key of a state":      {append(termPrefix(stateTerm(api.Queued)), 1, 2), nil, "corrupt entry"},
		"key of times":        {[]byte("txyz"), nil, "corrupt entry"},
		"times":               {keyTimes(0), []byte("xyz"), "corrupt entry"},
		"index of none":       {keyTerm(stateTerm(api.Queued), 0), []byte{1, 2, 3, 77}, "build number 77, which is not there"},
		"samples":             {keyOf("hello", "x"), []byte(`{"samples":[{"duration":5400000000000000000},{"duration":3}]}`), `samples of package hello for x: seconds 5.4e+09`},
		"no samples":          {keyOf("hello", "x"), []byte(`{`), "samples"},
		"key of samples":      {[]byte("pxyz"), []byte(`{}`), "samples"},
		"odd build system":    {keyOf("hello", "x"), []byte(`{"buildSystem":"odd"}`), "unknown build system"},
		"class":               {keyClass(estimate.Package, "gnu"), []byte(`{"cpu":{"n":-1}}`), "class"},
		"odd class":           {keyClass("odd", "gnu"), []byte(`{}`), "unknown kind"},
		"machine":             {keyMachine("m"), []byte(`{"name":"m","bandwidth":-1}`), `machine "m": bandwidth -1`},
		"other machine":       {keyMachine("m"), []byte(`{"name":"n"}`), `machine "m": it is about "n"`},
		"setting":             {keySetting("s"), []byte("{"), `setting "s": its value is not JSON`},
		"hour":                {keyHour(7), []byte{1, 99}, "hour 7: it is cut off"},
		"empty hour":          {keyHour(7), nil, "hour 7"},
		"later hour":          {keyHour(7), []byte{2, 1}, "hour 7: it has another version"},
		"high hour":           {keyHour(-1), hourOf(t, 7), "hour -1"},
		"key of an hour":      {[]byte("uxyz"), nil, "corrupt entry"},
		"removed":             {keyMeta("removed"), []byte("x"), "the note of what was removed"},
		"changes":             {keyChanges, []byte("x"), "the number of changes"},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			l := open(t, "ledger", Options{FS: mem})
			apply(t, l, Change{Build: build("first", api.Queued)}, Change{Build: build("bad", api.Queued)}, Change{Build: build("last", api.Queued)})
			apply(t, l, Change{Build: build("bad", api.Placed)})
			apply(t, l, Change{Machine: &Machine{Name: "good"}, Samples: samplesFor("a", "x", estimate.Sample{Duration: 1})})
			if err := l.db.Set(tt.key, tt.value, nil); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			problems, err := Inspect(t.Context(), "ledger", Options{FS: mem})
			if text := errors.Join(problems...); err != nil || tt.want != "" && (text == nil || !strings.Contains(text.Error(), tt.want)) {
				t.Errorf("inspect: %v, %v; want %q", text, err, tt.want)
			}
			worksDespiteOf(t, mem)
			var dropped []string
			n, err := Repair(t.Context(), "ledger", Options{FS: mem}, func(key, _ []byte, why error) error {
				dropped = append(dropped, fmt.Sprintf("%q: %s", key, why))
				return nil
			})
			if err != nil || n != len(dropped) {
				t.Fatalf("repair: %d, %q, %v", n, dropped, err)
			}
			if problems, err := Inspect(t.Context(), "ledger", Options{FS: mem}); err != nil || len(problems) > 0 {
				t.Errorf("after %q were dropped: %v, %v", dropped, errors.Join(problems...), err)
			}
			l = open(t, "ledger", Options{FS: mem})
			if got := list(t, l, Filter{}); !slices.Contains(got, "first") || !slices.Contains(got, "last") || !slices.Contains(got, "later") {
				t.Errorf("builds %q are left", got)
			}
			check(t, l)
		})
	}
}

// worksDespiteOf opens a ledger with something unusable in it, and does all that one does.
func worksDespiteOf(t *testing.T, fs vfs.FS) {
	t.Helper()
	ctx := context.Background()
	l, err := Open("ledger", Options{FS: fs})
	if err != nil {
		t.Fatalf("it does not open: %v", err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, f := range []api.Filter{
		{},
		{States: NonFinal()},
		{Name: "hello*"},
		{Name: "hello-*"},
		{System: "x86_64-linux"},
		{Since: time.Unix(0, 0)},
		{Derivation: build("", "").Derivation},
		{NotTags: map[string]string{"a": "b"}},
	} {
		if got := list(t, l, Filter{Filter: f}); !slices.Contains(got, "first") || !slices.Contains(got, "last") {
			t.Errorf("%+v: builds %q", f, got)
		}
	}
	if all := events(t, l, 0); len(all) < 4 {
		t.Errorf("%d events", len(all))
	}
	for _, id := range []string{"first", "bad", "last"} {
		_, buildErr := l.Build(ctx, id)
		_, eventsErr := l.BuildEvents(ctx, id)
		for _, err := range []error{buildErr, eventsErr} {
			if err != nil && (id != "bad" || !isRecordError(err)) {
				t.Errorf("build %s: %v", id, err)
			}
		}
	}
	if machines, err := l.Machines(ctx); err != nil || machines["good"].Name != "good" {
		t.Errorf("machines %v, %v", machines, err)
	}
	if _, err := l.Estimate(ctx, estimate.Key{Kind: estimate.Package, Name: "hello", System: "x"}); err != nil {
		t.Error(err)
	}
	if err := l.Settings(ctx, "", func(string, json.RawMessage) error { return nil }); err != nil {
		t.Error(err)
	}
	if err := l.Hours(ctx, 0, 1e9, func(*history.Hour) error { return nil }); err != nil {
		t.Error(err)
	}
	old := build("bad", api.Succeeded)
	old.System = "other"
	stopped := time.Unix(1, 0)
	gone := build("later", api.Failed)
	gone.Stopped = &stopped
	done, refused, err := l.ApplyEach(ctx, []Change{
		{Build: old},
		{Build: gone},
		{Event: &api.Event{Build: "bad"}},
		{Event: &api.Event{Machine: "m"}},
		{Samples: samplesFor("hello", "x", estimate.Sample{Duration: 2})},
		{Machine: &Machine{Name: "m"}},
		{Setting: &Setting{"t", 1}},
		{Hour: &history.Hour{Number: 8, Parts: []int{0}, Covered: []int64{1}}},
	}, true)
	if err != nil || done != 8 {
		t.Errorf("%d changes, %v, %v", done, refused, err)
	}
	for _, r := range refused {
		if r.Index != 0 && r.Index != 2 {
			t.Errorf("change %d: %v", r.Index, r.Err)
		}
	}
	if _, err := l.Prune(ctx, PruneOptions{Before: time.Unix(1<<40, 0), DryRun: true}, nil); err != nil {
		t.Errorf("prune: %v", err)
	}
}

// What an older version wrote longer than it may be now is cut when it is read.
func TestLongTextsOfOldRecords(t *testing.T) {
	l := open(t, "ledger", Options{FS: vfs.NewMem()})
	apply(t, l, Change{Build: build("a", api.Queued)})
	b := build("a", api.Queued)
	b.Reason = strings.Repeat("x", 10<<20)
	b.Failure = &api.Failure{Message: b.Reason}
	record, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(storedEvent{Build: "a", State: api.Queued, Reason: b.Reason, Failure: b.Failure})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.db.Set(keyBuild(1), record, nil), l.db.Set(keyEvent(1), append(make([]byte, 8), text...), nil)); err != nil {
		t.Fatal(err)
	}
	check(t, l)
	got, err := l.Build(t.Context(), "a")
	if err != nil || len(got.Reason) > api.MaxReason || len(got.Failure.Message) > api.MaxMessage || !strings.HasSuffix(got.Reason, "more bytes)") {
		t.Errorf("%d, %v", len(got.Reason), err)
	}
	all := events(t, l, 0)
	if len(all) != 1 || len(all[0].Reason) > api.MaxReason || len(all[0].Failure.Message) > api.MaxMessage {
		t.Errorf("%d events", len(all))
	}
	apply(t, l, Change{Build: got})
	check(t, l)
}

// FuzzRecord has whatever can be read as a record be written and read again.
func FuzzRecord(f *testing.F) {
	good, err := json.Marshal(build("a", api.Queued))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"id":"a","state":"failed","failure":{"message":"x","input":"/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-a"},"tags":{"a":"b"},"attempt":7}`))
	f.Add([]byte(`{"id":"a","state":"queued","buildTime":1e308,"results":[{"machine":"m","hashes":{"out":"x"}}],"submitted":"9999-12-31T23:59:59Z"}`))
	var l *Ledger
	f.Cleanup(func() {
		if err := l.Close(); err != nil {
			f.Error(err)
		}
	})
	fresh := func() {
		if l, err = Open("ledger", Options{FS: vfs.NewMem()}); err != nil {
			panic(err)
		}
	}
	fresh()
	n := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := decodeBuild(1, data)
		if err != nil {
			if !isRecordError(err) {
				t.Errorf("%v is not an error of a record", err)
			}
			return
		}
		n++
		b.ID = fmt.Sprint("b", n)
		_, refused, err := l.ApplyEach(t.Context(), []Change{{Build: b}}, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(refused) > 0 {
			if text := refused[0].Err.Error(); !strings.Contains(text, "bytes as JSON") {
				t.Errorf("it was read, and is refused: %s", text)
			}
			return
		}
		got, err := l.Build(t.Context(), b.ID)
		if err != nil {
			t.Fatal(err)
		}
		if want := newTerms(b).head(1, 1, 1); newTerms(got).head(1, 1, 1) != want {
			t.Errorf("it is found by something else once it was read again")
		}
		if n%1000 == 0 {
			check(t, l)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			fresh() // a small one is checked soon
		}
	})
}

// FuzzEvent does so with events.
func FuzzEvent(f *testing.F) {
	f.Add([]byte("12345678{}"))
	f.Add([]byte(`12345678{"kind":"note","attempt":3,"machine":"m","reason":"r","failure":{"culprit":"link","phase":"placed","message":"x"}}`))
	l := open(f, "ledger", Options{FS: vfs.NewMem()})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEvent(keyEvent(1), data)
		if err != nil {
			if !isRecordError(err) {
				t.Errorf("%v is not an error of a record", err)
			}
			return
		}
		e.Build, e.State = "", ""
		_, refused, err := l.ApplyEach(t.Context(), []Change{{Event: &e}}, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(refused) > 0 {
			if text := refused[0].Err.Error(); !strings.Contains(text, "bytes as JSON") {
				t.Errorf("it was read, and is refused: %s", text)
			}
			return
		}
		if got := events(t, l, l.LastEvent()); len(got) != 1 || got[0].Kind == api.KindUnusable && e.Kind != api.KindUnusable {
			t.Errorf("got %+v", got)
		}
	})
}

func measured(m store.Measured) *api.Build {
	b := build("there", api.Succeeded)
	b.Measured = &m
	return b
}
