"""Expand a template as AWS does. The SAM CLI's Python runs this program, because it has the translator.

Standard input is `[template, [parameters, …]]`, standard output one expanded template for each set of parameters.
"""

import json
import logging
import os
import sys
from copy import deepcopy

os.environ["AWS_DEFAULT_REGION"] = "eu-west-1"  # otherwise the translator asks boto3 for a region

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

logging.disable()
template, cases = json.load(sys.stdin)
# The template names no managed policies, so there are none to look up.
json.dump([Translator({}, Parser()).translate(deepcopy(template), case) for case in cases], sys.stdout)
