package agentapi

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"lighter/store"
)

const status = `{"id":"b","attempt":1,"derivation":"` + string(drv) + `","state":"succeeded","outputs":{"out":` + info + `}}`

// seeds are bodies, true ones and such that did harm once.
func seeds(f *testing.F, more ...string) {
	for _, text := range append(more, "", "null", "[]", "{}", "[null]", `{"x":null}`, status, info, "["+status+"]",
		strings.Repeat("[", 20000), `{"infos":[`+info+`,null]}`, `{"paths":["`+string(item)+`"],"paths":[]}`, `{"error":"\u001b"}`,
		`{"id":"b","attempt":2147483648,"state":"running"}`, strings.Replace(status, `"out":`, `"x":null,"out":`, 1)) {
		f.Add([]byte(text))
	}
}

func FuzzMachine(f *testing.F) {
	seeds(f, `{"protocol":1,"storeDir":"/gnu/store","load":1e308,"cores":-1,"freeDisk":-5}`, `{"protocol":1,"storeDir":"/gnu/store","systems":[""]}`)
	f.Fuzz(func(t *testing.T, text []byte) {
		var m Machine
		if decodeOne(bytes.NewReader(text), maxMachine, &m) != nil || m.check() != nil || m.Protocol != Protocol {
			return
		}
		if m.Cores < 0 || m.Load < 0 || math.IsInf(m.Load, 0) || m.FreeDisk < -1 || m.CPUPressure > 100 || len(m.Systems) > maxSystems {
			t.Errorf("%+v", m)
		}
		if strings.ContainsFunc(m.Kernel+m.Hostname+m.BuildProblem, dangerous) {
			t.Errorf("%q", m.Kernel+m.Hostname+m.BuildProblem)
		}
	})
}

func FuzzStatus(f *testing.F) {
	seeds(f, strings.Replace(status, "succeeded", "failed", 1),
		strings.Replace(status, `"state"`, `"measured":{"cpu":1e308,"peakMemory":-1,"method":"cgroup","unmeasured":"\u001b"},"state"`, 1))
	asked := &Asked{ID: "b", Attempt: 1, Derivation: drv, Outputs: map[string]store.Path{"out": item}}
	f.Fuzz(func(t *testing.T, text []byte) {
		var s BuildStatus
		if decodeOne(bytes.NewReader(text), maxStatus, &s) != nil || s.check(asked) != nil {
			return
		}
		if m := s.Measured; m != nil && (m.CPU < 0 || m.CPU > maxCPU || m.PeakMemory < 0 || m.Disk < 0 || m.MemoryLimit < 0 || strings.ContainsFunc(m.Unmeasured, dangerous)) {
			t.Errorf("%+v", m)
		}
		if s.ID != "b" || s.Attempt != 1 || s.LogSize < 0 {
			t.Errorf("%+v", s)
		}
		if s.State == Succeeded && !s.Partial && (len(s.Outputs) != 1 || s.Outputs["out"].Path != item || s.Outputs["out"].NARSize <= 0) {
			t.Errorf("%+v", s)
		}
		if s.Failure != nil && strings.ContainsFunc(s.Failure.Message, dangerous) {
			t.Errorf("%q", s.Failure.Message)
		}
	})
}

func FuzzListing(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		l := listing{ids: make(map[string]bool), known: func(id string) (*Asked, error) { return &Asked{ID: id}, nil }}
		if (listReader{element: maxStatus, most: maxBuilds, each: l.add}).read(bytes.NewReader(text)) != nil {
			return
		}
		for _, s := range l.builds {
			if s.Attempt < 1 || s.Derivation == "" || s.State == Succeeded && s.Outputs["out"] == nil && len(s.Outputs) > 0 && s.Outputs[""] != nil && s.Outputs[""].NARSize <= 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}

func FuzzInfos(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		l := closureReader{dir: item.Dir(), seen: make(map[store.Path]bool)}
		if (listReader{field: "infos", element: maxInfo, most: maxInfos, each: l.add}).read(bytes.NewReader(text)) != nil {
			return
		}
		for _, info := range l.infos {
			if checkInfo(info, item.Dir()) != nil {
				t.Errorf("%+v", info)
			}
		}
	})
}

func FuzzPathsAndErrors(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		var list []store.Path
		if (listReader{field: "paths", element: maxPath, most: 1, each: appendPath(&list)}).read(bytes.NewReader(text)) == nil && len(list) > 1 {
			t.Errorf("%q", list)
		}
		var e Error
		if json.Unmarshal(text, &e) == nil {
			if e.check(); strings.ContainsFunc(e.Error(), dangerous) {
				t.Errorf("%q", e.Error())
			}
		}
	})
}
