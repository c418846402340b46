#!/usr/bin/env node
// npm links this file at install time, before the build has made dist/.
import '../dist/main.js';
