package api

// Estimate is what builds of a package will probably take, for one system.
type Estimate struct {
	Kind   string `json:"kind"` // package, download, archive, module, profile or graft
	Name   string `json:"name"` // without version
	System string `json:"system"`
	// Version is that of the last sample; samples of others count less.
	Version     string `json:"version,omitempty"`
	BuildSystem string `json:"buildSystem,omitempty"`
	Samples     int    `json:"samples"`  // that are remembered
	Imported    int    `json:"imported"` // of these, from other farms
	// Duration and CPU are in seconds, at speed 1; the others are in bytes.
	Duration Range `json:"duration"`
	CPU      Range `json:"cpu"`
	Memory   Range `json:"memory"` // at the peak
	Disk     Range `json:"disk"`
	Output   Range `json:"output"` // as NARs
}

// Range is what is thought of one quantity.
type Range struct {
	Middle float64 `json:"middle"` // half of all builds take more
	Low    float64 `json:"low"`    // four in five are from Low
	High   float64 `json:"high"`   // to High
	// From says what it comes from: "its version", "its package", "a table of giants", "its build system",
	// "all of its kind", "a guess".
	From string `json:"from"`
}

// EstimateList has estimates, by name.
type EstimateList struct {
	Estimates []Estimate `json:"estimates"`
	Left      int        `json:"left,omitempty"` // how many more there are
}

// MaxEstimates is how many estimates are listed at once.
const MaxEstimates = 5000

// ImportedSamples says what an import of samples brought.
type ImportedSamples struct {
	Packages int `json:"packages"`
	Samples  int `json:"samples"` // those that were there already are counted too
}
