package machines

import "lighter/internal/tomlfile"

// Error is one thing wrong in a machines file.
type Error = tomlfile.Error

// Errors is all that is wrong in a machines file, in the order of the file; there
// is at least one.
type Errors = tomlfile.Errors
