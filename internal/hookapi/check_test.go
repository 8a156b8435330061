package hookapi

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/testkit"
	"lighter/store"
)

const (
	aDrv = "/gnu/store/r24ph4wka0cdybig90b5w4fa0dvn52ry-x.drv"
	anID = "00000000-0000-4000-8000-000000000000"
)

// TestDecodeRefuses has each field of each frame say what it must not.
func TestDecodeRefuses(t *testing.T) {
	many := func(n int, s string) string { return "[" + strings.Repeat(s+",", n-1) + s + "]" }
	for _, c := range []struct {
		into any
		text string
	}{
		{new(Question), `null`},
		{new(Question), `{"derivation":null,"system":"x"}`},
		{new(Question), `{"derivation":"` + strings.TrimSuffix(aDrv, ".drv") + `","system":"x"}`},
		{new(Question), `{"derivation":"` + aDrv + `"}`},
		{new(Question), `{"derivation":"` + aDrv + `","system":"x y"}`},
		{new(Question), `{"derivation":"` + aDrv + `","system":"x\n@ build-succeeded"}`},
		{new(Question), `{"derivation":"` + aDrv + `","system":"` + strings.Repeat("x", 256) + `"}`},
		{new(Question), `{"derivation":"` + aDrv + `","system":"x","features":[""]}`},
		{new(Question), `{"derivation":"` + aDrv + `","system":"x","features":[null]}`},
		{new(Question), `{"derivation":"` + aDrv + `","system":"x","features":["a\u001b[2J"]}`},
		{new(Question), `{"derivation":"` + aDrv + `","system":"x","features":` + many(257, `"a"`) + `}`},
		{new(Answer), `{}`},
		{new(Answer), `{"verdict":"accept\n# accept"}`},
		{new(Answer), `{"verdict":"ACCEPT"}`},
		{new(Progress), `{}`},
		{new(Progress), `{"state":"nonsense"}`},
		{new(Progress), `{"state":"building","attempt":-1}`},
		{new(Progress), `{"state":"building","attempt":2147483648}`},
		{new(Progress), `{"state":"building","attempt":1e300}`},
		{new(Shipment), `{}`},
		{new(Shipment), `{"number":0}`},
		{new(Shipment), `{"number":-1}`},
		{new(Shipment), `{"number":1,"bytes":-1}`},
		{new(Shipment), `{"number":1,"bytes":1099511627777}`},
		{new(Shipment), `{"number":1,"bytes":9223372036854775807}`},
		{new(Shipment), `{"number":1,"items":-1}`},
		{new(Shipment), `{"number":1,"items":257}`},
		{new(Result), `{}`},
		{new(Result), `{"state":"building"}`},
		{new(Result), `{"state":"succeeded\u0000"}`},
	} {
		if err := Decode([]byte(c.text), c.into); !errors.Is(err, ErrFrame) {
			t.Errorf("%T %.100s: got %v, %+v", c.into, c.text, err, c.into)
		} else if strings.ContainsAny(err.Error(), "\n\x1b\x00") || len(err.Error()) > 1000 {
			t.Errorf("%T %.100s: the error is %q", c.into, c.text, err)
		}
	}
}

func TestOrderCheck(t *testing.T) {
	good := Order{ID: anID, Derivation: aDrv, Outputs: []store.Path{"/gnu/store/r24ph4wka0cdybig90b5w4fa0dvn52ry-x"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	id, secret, err := NewID()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := NewID()
	if err != nil || id == other {
		t.Fatalf("%s twice, %v", id, err)
	}
	own := good
	own.ID, own.Secret = id, secret
	if err := own.Check(); err != nil {
		t.Error(err)
	}
	tooMany := int64(api.MaxAttempt) + 1 // negative where an int has 32 bits
	for name, change := range map[string]func(*Order){
		"no id":            func(o *Order) { o.ID = "" },
		"another's id":     func(o *Order) { o.ID = other },
		"no secret":        func(o *Order) { o.Secret = "" },
		"another secret":   func(o *Order) { o.Secret = strings.Repeat("0", 32) },
		"no derivation":    func(o *Order) { o.Derivation = "" },
		"a source":         func(o *Order) { o.Derivation = o.Outputs[0] },
		"no output":        func(o *Order) { o.Outputs = nil },
		"a null output":    func(o *Order) { o.Outputs = []store.Path{o.Outputs[0], ""} },
		"a null input":     func(o *Order) { o.Inputs = []store.Path{""} },
		"many outputs":     func(o *Order) { o.Outputs = make([]store.Path, 257) },
		"long timeout":     func(o *Order) { o.Timeout = 1e300 },
		"long silence":     func(o *Order) { o.MaxSilentTime = 1e300 },
		"attempt":          func(o *Order) { o.LogAttempt = -1 },
		"too many of them": func(o *Order) { o.LogAttempt = int(tooMany) },
		"offset":           func(o *Order) { o.LogOffset = math.MinInt64 },
	} {
		o := own
		change(&o)
		if err := o.Check(); err == nil {
			t.Errorf("%s: %+v is taken", name, o)
		}
	}
}

func TestSetInputs(t *testing.T) {
	long := store.Path("/gnu/store/" + strings.Repeat("a", 32) + "-" + strings.Repeat("x", 200))
	for _, n := range []int{0, 1, 10_000, 1_000_000} {
		inputs := make([]store.Path, n)
		for i := range inputs {
			inputs[i] = long
		}
		o := Order{ID: anID, Derivation: aDrv, Outputs: []store.Path{long}}
		o.SetInputs(inputs)
		if n <= 10_000 && len(o.Inputs) != n {
			t.Errorf("%d of %d inputs are left", len(o.Inputs), n)
		}
		if err := WriteJSON(io.Discard, Build, &o); err != nil {
			t.Errorf("%d inputs: %v", n, err)
		}
	}
}

func TestAliveEvery(t *testing.T) {
	for silent, want := range map[api.Seconds]time.Duration{
		0: 5 * time.Second, 3600: 5 * time.Second, 8: 2 * time.Second, 1: 250 * time.Millisecond,
		0.01: 100 * time.Millisecond, -1: 5 * time.Second,
	} {
		if got := (&Order{MaxSilentTime: silent}).AliveEvery(); got != want {
			t.Errorf("%v: got %s, want %s", silent, got, want)
		}
	}
	for _, silent := range []api.Seconds{1e300, -1e300, api.Seconds(math.NaN()), api.Seconds(math.Inf(1))} {
		if got := (&Order{MaxSilentTime: silent}).AliveEvery(); got < 100*time.Millisecond || got > 5*time.Second {
			t.Errorf("%v: got %s", silent, got)
		}
	}
}

// dirty is what nobody may print.
const dirty = "a\r\n@ build-succeeded x\x1b[2J\x00\x85\u2028\u2029\u202e\xff"

// TestTextsAreMadePrintable puts the same into each text of each frame.
func TestTextsAreMadePrintable(t *testing.T) {
	long := dirty + strings.Repeat("ü", 1<<20)
	for _, v := range []any{
		&Answer{Verdict: Accept, Reason: long},
		&Progress{State: api.Building, Machine: long, Reason: long},
		&Shipment{Number: 1, Machine: long},
		&Receipt{Error: long},
		&Result{State: api.Failed, Machine: long, Reason: long, Failure: &api.Failure{
			Culprit: api.CulpritMachine, Machine: long, Message: long, KeptIn: long,
		}},
	} {
		payload, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(v).Elem())
		if err := Decode(payload, got.Interface()); err != nil {
			t.Errorf("%T: %v", v, err)
		}
		checkTexts(t, got.Elem())
	}
}

func checkTexts(t *testing.T, v reflect.Value) {
	t.Helper()
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.Kind() == reflect.Pointer && !f.IsNil():
			checkTexts(t, f.Elem())
		case f.Kind() == reflect.String:
			text, name := f.String(), v.Type().Field(i).Name
			if strings.ContainsAny(text, "\r\x1b\x00\u0085\u2028\u2029\u202e") || len(text) > api.MaxReason {
				t.Errorf("%s.%s is %d bytes: %.60q", v.Type(), name, len(text), text)
			}
			if isName := name == "Machine" || name == "KeptIn"; isName && (strings.Contains(text, "\n") || len(text) > api.MaxName) {
				t.Errorf("%s.%s is %d bytes: %.60q", v.Type(), name, len(text), text)
			}
		}
	}
}

// TestAnnouncedFrameCostsNothing has many readers wait for long frames of which hardly
// anything comes.
func TestAnnouncedFrameCostsNothing(t *testing.T) {
	frame := binary.BigEndian.AppendUint32([]byte{byte(Build)}, MaxFrame)
	frame = append(frame, bytes.Repeat([]byte(" "), 1000)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		if _, _, err := NewReader(bytes.NewReader(frame)).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > testkit.AllocFactor*100*2*MaxChunk {
		t.Errorf("100 announcements took %d MiB", took>>20)
	}
}

// decoded reads a frame as either side does.
func decoded(kind Kind, payload []byte) (any, error) {
	v := map[Kind]any{
		Ask: new(Question), Build: new(Order), Delivered: new(Receipt), Reply: new(Answer),
		State: new(Progress), Transfer: new(Shipment), Final: new(Result),
	}[kind]
	if v == nil {
		return nil, nil
	}
	err := Decode(payload, v)
	if o, ok := v.(*Order); ok && err == nil {
		err = o.Check()
	}
	return v, err
}

// FuzzFrames reads what either side may say. What is taken must be what it would be again
// once it was written, so that nothing hides in it, and it must be printable.
func FuzzFrames(f *testing.F) {
	for _, seed := range []struct {
		kind Kind
		v    any
	}{
		{Ask, &Question{Derivation: aDrv, System: "x86_64-linux", Features: []string{"kvm"}}},
		{Build, &Order{ID: anID, Derivation: aDrv, Outputs: []store.Path{aDrv}, Timeout: 1}},
		{Delivered, &Receipt{Number: 1, Error: dirty}},
		{Reply, &Answer{Verdict: Postpone, Reason: dirty}},
		{State, &Progress{State: api.Building, Attempt: 1, Machine: dirty, Reason: dirty}},
		{Transfer, &Shipment{Number: 1, Machine: dirty, Items: 1, Bytes: 1 << 40}},
		{Final, &Result{State: api.Failed, Machine: dirty, Failure: &api.Failure{Message: dirty}}},
	} {
		var b bytes.Buffer
		if err := WriteJSON(&b, seed.kind, seed.v); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte("l\x00\x00\x00\x01xc\x00\x00\x00\x00e\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream))
		for {
			kind, payload, err := r.Next()
			if err != nil {
				return
			}
			v, err := decoded(kind, payload)
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\x00\r") {
				t.Errorf("the error is %q", err)
			}
			if v == nil || err != nil {
				continue
			}
			if kind != Ask && kind != Build {
				checkTexts(t, reflect.ValueOf(v).Elem())
			}
			again, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if w, err := decoded(kind, again); err != nil || !reflect.DeepEqual(v, w) {
				t.Errorf("%q %s: then %+v, %v", kind, payload, w, err)
			}
		}
	})
}
