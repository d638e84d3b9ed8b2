# For tools that insist on node-gyp. It names no sources: CMakeLists.txt is the one build description, and this
# target only asks scripts/build-addon.js to build in a folder of its own and to copy the result.
{
  'targets': [
    {
      'target_name': 'lathe',
      'type': 'none',
      'actions': [
        {
          'action_name': 'cmake_js',
          'inputs': ['CMakeLists.txt'],
          'outputs': ['<(PRODUCT_DIR)/lathe.node'],
          'action': ['node', 'scripts/build-addon.js', '--out', 'build/gyp-cmake', '--copy-to', '<(PRODUCT_DIR)/lathe.node'],
          'message': 'building the addon with cmake-js',
        },
      ],
    },
  ],
}
