// The version of ANP, of the library and the command alike. The only place.
#pragma once
#define ANP_VERSION "0.1.0"
