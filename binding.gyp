# For tools that insist on node-gyp: the build itself is CMakeLists.txt.
{
  "targets": [
    {
      "target_name": "shardgrad_cmake",
      "type": "none",
      "actions": [
        {
          "action_name": "build_native",
          "inputs": ["CMakeLists.txt", "scripts/build-native"],
          "outputs": ["build/Release/shardgrad.node"],
          "action": ["node", "scripts/build-native"]
        }
      ]
    }
  ]
}
